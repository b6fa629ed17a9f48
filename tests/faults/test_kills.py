"""Work that is killed goes on when it is begun again, and ends with the result of an undisturbed run."""

import json
import os
import subprocess
import sys


def test_killed_work_ends_with_the_result_of_an_undisturbed_run():
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.kills", "--kills", "2", "--only", "training", "EM"]
    command += ["--seed", "23"]  # all four come in the second half of the work, when there is something to go on from
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # forks want one thread
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["problem"] for row in rows] == ["classifier training", "EM"]
    for row in rows:
        assert row["wrong"] == []
        assert (row["kills"], row["same"], row["half_written"]) == (2, 2, 0)
        assert row["before_the_end"] > 0
