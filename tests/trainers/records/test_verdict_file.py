import math

import pytest

from trainers.records.record import Record, unreadable
from trainers.records.verdict_file import COLUMNS, VerdictFile, read_csv
from trainers.records.verdicts import summarize_verdicts

PATHS = ["a.png", 'comma, "quote".png', "new\nline.png", "ä.png", "\udcff.png", "f.png", "g.png"]
ROWS = [
    unreadable(path, "torn\nat all")  # a cell that may be cut behind a whole line
    if i in (3, 4)
    else Record(path, "cat", -math.inf if i == 0 else -1 / 3 * i, 0.01 * i, i > 2, i, "")
    for i, path in enumerate(PATHS)
]
BATCH = 2


def write(path, begin=0, batch=BATCH):
    """What the application does, from wherever the file allows; the rows it went on from."""
    with VerdictFile(path, "job") as file:
        kept = len(file.keep(PATHS, batch))
        for start in range(kept, len(ROWS), batch):
            file.append(ROWS[start : start + batch])
        file.finish(len(ROWS))
    return kept


def test_rows_are_read_as_they_were_written(tmp_path):
    write(tmp_path / "v.csv")
    rows = list(read_csv(tmp_path / "v.csv"))
    assert [row.path for row in rows] == PATHS
    assert [row.accept for row in rows] == [row.accept for row in ROWS]
    assert [repr(rows[i]) for i in (0, 4)] == [repr(ROWS[i]) for i in (0, 4)]  # NaN equals nothing, itself included
    cells = (tmp_path / "v.csv").read_bytes().split(b"\r\n")
    assert cells[5] == b'\xff.png,,,,False,,"torn\nat all"'
    assert rows[6].score == pytest.approx(ROWS[6].score, rel=1e-8)
    assert {path.name for path in tmp_path.iterdir()} == {"v.csv"}


def test_wherever_the_file_was_cut_the_result_is_that_of_an_undisturbed_run(tmp_path):
    write(tmp_path / "once.csv")
    whole = (tmp_path / "once.csv").read_bytes()
    kept = []
    for length in range(len(whole) + 1):
        (tmp_path / "v-job.partial.csv").write_bytes(whole[:length])
        kept.append(write(tmp_path / "v.csv"))
        assert (tmp_path / "v.csv").read_bytes() == whole
        assert not (tmp_path / "v-job.partial.csv").exists()
    assert kept == sorted(kept)
    assert set(kept) == {0, 2, 4, 6}


@pytest.mark.parametrize("rubbish", [b"\0" * 300, b"path,score\r\n1,2\r\n", b'"' * 1000, b"\xff\n"])
def test_rubbish_is_not_gone_on_from(rubbish, tmp_path):
    write(tmp_path / "once.csv")
    (tmp_path / "v-job.partial.csv").write_bytes(rubbish)
    assert write(tmp_path / "v.csv") == 0
    head = (",".join(COLUMNS) + "\r\n").encode()
    (tmp_path / "v-job.partial.csv").write_bytes(head + rubbish)
    assert write(tmp_path / "v.csv") == 0
    assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "once.csv").read_bytes()


def test_rows_of_images_that_are_no_longer_listed_are_dropped(tmp_path):
    with VerdictFile(tmp_path / "v.csv", "job") as file:
        file.keep(PATHS, BATCH)
        file.append(ROWS)
    with VerdictFile(tmp_path / "v.csv", "job") as file:
        assert len(file.keep([*PATHS[:3], "new.png", *PATHS[3:]], BATCH)) == 2
    with VerdictFile(tmp_path / "v.csv", "another") as file:
        assert len(file.keep(PATHS, BATCH)) == 0


def test_too_few_rows_are_not_called_finished(tmp_path):
    with VerdictFile(tmp_path / "v.csv", "job") as file:
        file.keep(PATHS, BATCH)
        file.append(ROWS[:2])
        with pytest.raises(RuntimeError, match="expected 7 rows; 2 were written"):
            file.finish(7)
    assert not (tmp_path / "v.csv").exists()


def test_two_writers_of_the_same_are_kept_apart(tmp_path):
    with VerdictFile(tmp_path / "v.csv", "job"), pytest.raises(ValueError, match="another run is writing"):
        VerdictFile(tmp_path / "v.csv", "job").__enter__()


def test_another_csv_is_refused(tmp_path):
    (tmp_path / "v.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="to begin with path,prediction"):
        list(read_csv(tmp_path / "v.csv"))


def test_a_damaged_csv_is_not_read_as_a_shorter_one(tmp_path):
    write(tmp_path / "v.csv")
    whole = (tmp_path / "v.csv").read_bytes()
    (tmp_path / "v.csv").write_bytes(whole[: whole.index(b"at all")])
    with pytest.raises(ValueError, match="expected rows of a CSV; got damaged ones"):
        list(read_csv(tmp_path / "v.csv"))


@pytest.mark.parametrize("n_shown", [0, 1, 5])
def test_the_summary_counts_and_ranks(n_shown, tmp_path):
    write(tmp_path / "v.csv")
    summary = summarize_verdicts(tmp_path / "v.csv", n_shown)
    assert (summary.n, summary.n_refused, summary.n_unreadable) == (7, 5, 2)
    assert [row.path for row in summary.refused] == PATHS[:3][:n_shown]
    assert [row.path for row in summary.unreadable] == PATHS[3:5]  # whose names are told in any case
    assert len(summary.p_values) == 5


def test_what_came_in_the_meantime_is_not_replaced(tmp_path):
    with VerdictFile(tmp_path / "r.csv", "job") as output:
        output.keep([], 2)
        (tmp_path / "r.csv" / "mine").mkdir(parents=True)
        with pytest.raises(ValueError, match=r"output: expected .* to replace; got .*r\.csv"):
            output.finish(0)
    assert (tmp_path / "r.csv" / "mine").is_dir()


def test_a_file_of_another_kind_is_not_replaced(tmp_path):
    weights = tmp_path / "net.pt"
    weights.write_bytes(b"weights")
    with pytest.raises(ValueError, match="output: expected a new file"):
        write(weights)
    assert weights.read_bytes() == b"weights"
    write(tmp_path / "v.csv")
    assert write(tmp_path / "v.csv") == 0  # verdicts are
