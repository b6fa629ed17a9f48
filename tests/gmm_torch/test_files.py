import os
from pathlib import Path

import pytest

from gmm_torch.files import atomic_path, write_text


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError(path)


def test_the_file_appears_whole_with_parents_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "metrics.json"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("{}")
        assert not target.exists()
    assert target.read_text() == "{}"
    assert os.listdir(target.parent) == ["metrics.json"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    target.write_text("old")
    with pytest.raises(KeyError):
        write_half(target)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x.csv"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_is_refused_before_the_block_runs(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="got the folder"), atomic_path(tmp_path):
        pytest.fail("the block ran")


def test_the_mode_is_that_of_an_ordinary_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


def test_a_text_stands_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "x.md", "χ\n")
    assert (tmp_path / "x.md").read_bytes() == "χ\n".encode()
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x.md", "\udcff")
    assert (tmp_path / "x.md").read_bytes() == "χ\n".encode()
    write_text(tmp_path / "x.md", "\udcff", errors="backslashreplace")
    assert (tmp_path / "x.md").read_text() == r"\udcff"
