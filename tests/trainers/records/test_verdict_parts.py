"""Verdicts in Parquet files: whole or not there, and gone on from."""

import pyarrow.parquet as pq
import pytest

from tests.trainers.records.test_verdict_file import BATCH, PATHS, ROWS
from trainers.records import verdict_parts
from trainers.records.verdict_parts import VerdictParts
from trainers.records.verdicts import read_verdicts, summarize_verdicts


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(verdict_parts, "ROWS", 3)  # so two batches of two a file


def write(path, until=None, paths=PATHS):
    """What the application does, which may end early; how many rows it went on from."""
    with VerdictParts(path, "job", BATCH) as file:
        kept = len(file.keep(paths, BATCH))
        for start in range(kept, until or len(ROWS), BATCH):
            file.append(ROWS[start : start + BATCH])
        if until is None:
            file.finish(len(ROWS))
    return kept


def test_rows_are_read_as_they_were_written(tmp_path):
    write(tmp_path / "v.parquet")
    found = list(read_verdicts(tmp_path / "v.parquet"))
    assert [repr(row[1:]) for row in found] == [repr(row[1:]) for row in ROWS]  # NaN equals nothing, itself included
    row = pq.read_table(tmp_path / "v.parquet").to_pylist()[4]
    nothing = dict.fromkeys(("prediction", "score", "p_value", "component"))
    assert row == {"path": "\\xff.png", "accept": False, "error": "torn\nat all", **nothing}
    assert [row.path for row in found] == [path.replace("\udcff", "\\xff") for path in PATHS]
    assert sorted(part.name for part in (tmp_path / "v.parquet").iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"v.parquet"}
    assert summarize_verdicts(tmp_path / "v.parquet", 2).n_refused == 5


def test_a_job_begun_again_skips_whole_files_and_removes_half_written_ones(tmp_path):
    write(tmp_path / "once.parquet")
    assert write(tmp_path / "v.parquet", until=6) == 0
    partial = tmp_path / "v-job.partial.parquet"
    assert [each.name for each in partial.iterdir()] == ["part-00000.parquet"]
    (partial / ".part-00001-x").mkdir()
    (partial / ".part-00001-x" / "part-00001.parquet").write_bytes(b"half")
    assert write(tmp_path / "v.parquet") == 4
    again, once = (list(map(repr, read_verdicts(tmp_path / f"{name}.parquet"))) for name in ("v", "once"))
    assert again == once
    assert len(list((tmp_path / "v.parquet").iterdir())) == 2


@pytest.mark.parametrize("damage", ["other paths", "torn", "missing"])
def test_files_that_are_not_of_these_images_are_written_again(damage, tmp_path):
    write(tmp_path / "v.parquet", until=6)
    (part,) = (tmp_path / "v-job.partial.parquet").iterdir()
    if damage == "torn":
        part.write_bytes(part.read_bytes()[:-9])
    elif damage == "missing":
        part.rename(part.with_name("part-00001.parquet"))
    assert write(tmp_path / "v.parquet", paths=["new.png", *PATHS[1:]] if damage == "other paths" else PATHS) == 0
    assert len(list(read_verdicts(tmp_path / "v.parquet"))) == len(ROWS)


def test_only_verdicts_are_replaced(tmp_path):
    write(tmp_path / "v.parquet")
    assert write(tmp_path / "v.parquet") == 0
    (tmp_path / "v.parquet" / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="output: expected a new folder"):
        write(tmp_path / "v.parquet")
    pq.write_table(pq.read_table(tmp_path / "v.parquet" / "part-00000.parquet"), tmp_path / "w.parquet")
    with pytest.raises(ValueError, match="output: expected a new folder"):
        write(tmp_path / "w.parquet")


def test_without_pyarrow_one_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(verdict_parts, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs pyarrow: pip install -e '\.\[ray\]'"):
        VerdictParts(tmp_path / "v.parquet", "job", BATCH)
