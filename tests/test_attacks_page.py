"""`docs/attacks.md` names every attack and corruption, and its tables are those of the benchmark's results."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from trainers.main import CONF

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "attacks.md").read_text()


@pytest.mark.parametrize("group", ["attack", "corruption"])
def test_every_attack_and_corruption_is_named(group):
    names = {path.stem for path in (CONF / group).glob("[!_]*.yaml")} - {"digits", "all"}
    assert names
    assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_the_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("attacks")
    results = json.loads(benchmark.RESULT.read_text())
    assert results
    for name, result in results.items():
        assert benchmark.filled(PAGE, name, benchmark.document(result)) == PAGE
        assert set(result["attacks"]) | set(result["sweeps"]) <= set(benchmark.ATTACKS)
    sys.modules.pop("attacks")
