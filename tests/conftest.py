"""Settings of every test process."""

import gc
import logging
import os
import random
import re
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch.torch_version import TorchVersion

from tests.pages import blocks

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: threads of several would wait for each other at every operation.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


# No test judges by time, and no two runs try other examples.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

TOP_TO_BOTTOM = re.compile(r"from\s+top\s+to\s+bottom")
# `torch.manual_seed` also notes down, for every kind of device that is not in use, where it was called.
seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
EXPORT = TorchVersion(torch.__version__) >= "2.8"


gc.disable()  # nothing that is imported goes away again


def pytest_collection_finish() -> None:
    # What is there by now stays, and the little garbage with it: no collection has to walk it.
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 20, 50)  # graphs that are traced make objects by the million, and few of them are garbage
    let_torch_log_in_one_place()
    if "tests.processes" in sys.modules:
        sys.modules["tests.processes"].fork_server()


def let_torch_log_in_one_place() -> None:
    """What torch logs goes through its logger "torch" alone.

    Pytest listens to every logger whose messages end there. Torch has fifty, and takes a listener for a request to
    describe each graph that it traces.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch.") and isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


def pytest_runtest_setup(item: pytest.Item) -> None:
    # What a test draws without a generator of its own is the same in every run, alone or in any order.
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from it
    seed(0)
    if not EXPORT and item.get_closest_marker("export"):
        pytest.skip("needs torch 2.8")


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Leaves the figures of reports empty."""
    from tests.drawing import figures_left_empty  # Matplotlib is slow to import

    with figures_left_empty():
        yield


@pytest.fixture
def unarranged() -> Iterator[None]:
    """Draws the figures of reports without arranging them."""
    from tests.drawing import figures_left_as_placed  # Matplotlib is slow to import

    with figures_left_as_placed():
        yield


@pytest.fixture
def run_python_blocks(tmp_path, monkeypatch) -> Callable[[str], int]:
    """Runs a page's Python blocks in an empty folder, but for those that are files; gives their number.

    Each runs alone, as a reader copies it, unless the page says that its examples run from top to bottom.
    """

    def run(page: str) -> int:
        monkeypatch.chdir(tmp_path)
        found = [block.text for block in blocks(page) if block.language == "python" and not block.title]
        names: dict[str, object] = {}
        for text in found:
            exec(text, names if TOP_TO_BOTTOM.search(page) else {})
        return len(found)

    return run
