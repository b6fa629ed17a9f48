"""The example of `docs/training.md` runs as it stands, and its tables are those of the benchmarks' results."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text()


def test_the_example_runs(run_python_blocks):
    assert run_python_blocks(PAGE) == 1


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("training_page")
    sys.modules.pop("training_page")


def test_the_tables_are_those_of_the_results(page):
    assert page.filled(PAGE) == PAGE
    with pytest.raises(ValueError, match="expected the lines '<!-- overhead"):
        page.filled("")


def test_a_training_that_failed_takes_no_other_row_away_and_is_told_with_its_reason(page):
    found = json.loads((ROOT / "benchmarks" / "results" / "training.json").read_text())
    plain = next(run for run in found["runs"] if run["data"] == "digits" and run["variant"] == "plain")
    seeds = [plain | {"seed": seed} for seed in (0, 1)]
    failed = {"data": "digits", "variant": "implicit 0.3", "seed": 0, "steps": 40, "failure": "no fixed point"}
    implicit = [failed, plain | {"variant": "implicit 0.3", "seed": 1}]
    table = page.likelihood_table(found | {"runs": seeds + implicit}, "digits")
    assert "| cross entropy | 2 |" in table
    assert "| implicit, λ = 0.3 | 1 |" in table  # of fewer seeds, so never the one that is chosen
    assert "implicit, λ = 0.3 did not get through the training with seed 0 (at step 40): `no fixed point`." in table
    lost = page.likelihood_table(found | {"runs": [*seeds[:1], failed]}, "digits")
    assert "| implicit, λ = 0.3 | 0 | – | – |" in lost
