from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.data.datamodule import ImageDataModule
from trainers.data.errors import DataError, DataNotFoundError
from trainers.data.image_list import image_list

WriteFolder = Callable[..., list[Path]]
SHAPE = (3, 12, 16)


@pytest.fixture
def benchmark(tmp_path: Path, write_folder: WriteFolder) -> Path:
    """Lists of 60 training, 10 held-out and 12 test images of two classes."""
    paths = write_folder(tmp_path / "images" / "pets", n=41)
    lines = [f"{path.relative_to(tmp_path / 'images')} {int(path.parent.name == 'dog')}" for path in paths]
    (tmp_path / "lists").mkdir()
    for name, chosen in (("train", lines[:60]), ("held_out", lines[60:70]), ("test", lines[70:] + lines[:2])):
        (tmp_path / "lists" / f"{name}.txt").write_text("\n".join(chosen) + "\n")
    return tmp_path


def lists(*names: str) -> dict[str, str]:
    return {name: f"lists/{name}.txt" for name in names}


def test_the_images_are_those_of_the_list_in_its_order(benchmark: Path) -> None:
    dataset = image_list(benchmark, "train", lists=lists("train", "test"), folder="images", image_shape=SHAPE)
    assert len(dataset) == 60
    assert dataset.targets.tolist() == [0] * 41 + [1] * 19
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.paths[0] == str(benchmark / "images/pets/cat/000.png")  # type: ignore[attr-defined]
    assert dataset[59][0].shape == SHAPE


def test_a_list_without_classes_has_no_labels(benchmark: Path) -> None:
    dataset = image_list(benchmark, lists={"all": "lists/test.txt"}, folder="images", image_shape=SHAPE)
    assert dataset.targets.unique().tolist() == [-1]
    assert dataset.class_names == []


@pytest.mark.parametrize(("every", "n"), [(7, 70), (5, 50), (31, 62)])
def test_the_calibration_split_holds_held_out_images_alone(benchmark: Path, every: int, n: int) -> None:
    def source(split: str) -> object:
        named = lists("train", "held_out", "test")
        return image_list(benchmark, split, lists=named, folder="images", image_shape=SHAPE, held_out_every=every)

    data = ImageDataModule(source, root=None, calibration_every=every, mixture_every=None)  # type: ignore[arg-type]
    held_out = (benchmark / "lists/held_out.txt").read_text().splitlines()
    paths = data.training_images.paths  # type: ignore[attr-defined]
    relative = [str(Path(path).relative_to(benchmark / "images")) for path in paths]
    named = {line.split()[0] for line in held_out}
    assert len(relative) == len(set(relative)) == n
    assert {relative[i] for i in data.indices["calibration"].tolist()} <= named
    for split in ("train", "validation", "mixture"):
        assert not {relative[i] for i in data.indices[split].tolist()} & named


def test_what_is_missing_is_named_with_its_remedy(benchmark: Path) -> None:
    for wrong in ({"lists": {"all": "lists/none.txt"}}, {"folder": "nowhere"}):
        options = {"lists": {"all": "lists/test.txt"}, "folder": "images"} | wrong
        with pytest.raises(DataNotFoundError, match=r"(none.txt|nowhere).*download.sh"):
            image_list(benchmark, image_shape=SHAPE, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["pets/cat/000.png", "pets/cat/000.png cat", ""])
def test_a_list_of_something_else_is_refused(benchmark: Path, text: str) -> None:
    (benchmark / "lists/train.txt").write_text(text)
    with pytest.raises(DataError, match=r"line 1: expected a path|a line for each image; got none"):
        image_list(benchmark, "train", lists=lists("train", "test"), folder="images", image_shape=SHAPE)
