"""The example of `docs/training.md` runs as it stands, and its tables are those of the benchmarks' results."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text()


def test_the_example_runs(run_python_blocks):
    assert run_python_blocks(PAGE) == 1


def test_the_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("training_page")
    assert page.filled(PAGE) == PAGE
    with pytest.raises(ValueError, match="expected the lines '<!-- overhead"):
        page.filled("")
    sys.modules.pop("training_page")
