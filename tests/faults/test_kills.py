"""Work that is killed goes on when it is begun again, and ends with the result of an undisturbed run."""

import json

from tests.faults.kills import main
from tests.processes import started


def test_killed_work_ends_with_the_result_of_an_undisturbed_run(tmp_path):
    # All four kills come in the second half of the work, when there is something to go on from.
    words = ["--kills", "2", "--only", "training", "EM", "--seed", "23"]
    process = started(main, (words,), tmp_path, tmp_path / "said")
    process.join()
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 0, said[-3000:]
    rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [row["problem"] for row in rows] == ["classifier training", "EM"]
    for row in rows:
        assert row["wrong"] == []
        assert (row["kills"], row["same"], row["half_written"]) == (2, 2, 0)
        assert row["before_the_end"] > 0
