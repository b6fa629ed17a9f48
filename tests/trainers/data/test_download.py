import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from trainers.data import download
from trainers.data.download import fetch_archive
from trainers.data.errors import DataNotFoundError
from trainers.data.folder import image_folder

WriteFolder = Callable[..., list[Path]]


@pytest.fixture
def served(tmp_path: Path, write_folder: WriteFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Archives in a folder, which stands for the network."""
    write_folder(tmp_path / "packed" / "set", n=2)
    (tmp_path / "served").mkdir()
    for kind in ("gztar", "zip"):
        shutil.make_archive(str(tmp_path / "served" / "set"), kind, tmp_path / "packed")

    def copy(url: str, folder: str, filename: str, md5: str | None) -> None:
        shutil.copy(tmp_path / "served" / url, Path(folder) / filename)

    monkeypatch.setattr(download, "download_url", copy)
    return tmp_path / "served"


@pytest.mark.parametrize("name", ["set.tar.gz", "set.zip"])
def test_a_missing_folder_is_fetched_once_and_its_archive_removed(served: Path, tmp_path: Path, name: str) -> None:
    fetch = partial(fetch_archive, url=name, filename=name)
    root = tmp_path / "data" / "set"
    for _ in range(2):
        images = image_folder(root, "all", image_shape=(3, 8, 8), download=fetch, download_root=tmp_path / "data")
        assert len(images) == 4
        (served / name).unlink(missing_ok=True)  # the second time it is not needed
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["set"]


def test_an_archive_cannot_write_outside_its_folder(served: Path, tmp_path: Path) -> None:
    with tarfile.open(served / "evil.tar", "w") as archive:
        archive.add(__file__, "../../outside.png")
    fetch = partial(fetch_archive, url="evil.tar", filename="evil.tar")
    with pytest.raises(DataNotFoundError, match="OutsideDestinationError"):
        image_folder(
            tmp_path / "data/set", "all", image_shape=(3, 8, 8), download=fetch, download_root=tmp_path / "data"
        )
    assert not list(tmp_path.rglob("outside.png"))


def test_the_error_gives_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"expected a folder; got .*none, which does not exist\. Ask"):
        image_folder(tmp_path / "none", "all", image_shape=(3, 8, 8), remedy="Ask the librarian.")


def test_a_download_of_something_else_is_told(served: Path, tmp_path: Path) -> None:
    fetch = partial(fetch_archive, url="set.zip", filename="set.zip")
    with pytest.raises(DataNotFoundError, match="holds no such folder"):
        image_folder(tmp_path / "data/other", "all", image_shape=(3, 8, 8), download=fetch, download_root=tmp_path)
