"""Settings of every test process."""

import os
import re
from collections.abc import Callable

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: threads of several would wait for each other at every operation.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture
def run_python_blocks(tmp_path, monkeypatch) -> Callable[[str], int]:
    """Runs the Python blocks of a page in order, in an empty folder; gives their number."""

    def run(page: str) -> int:
        monkeypatch.chdir(tmp_path)
        blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        names: dict[str, object] = {}
        for block in blocks:
            exec(block, names)  # later blocks go on from earlier ones
        return len(blocks)

    return run
