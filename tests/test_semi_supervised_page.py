"""The tables of `docs/semi_supervised.md` are those of the benchmark's results, and say what they say."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.configuration import configure


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    yield importlib.import_module("semi_supervised")
    sys.modules.pop("semi_supervised")


def test_the_tables_are_those_of_the_results(bench):
    page = bench.PAGE.read_text()
    result = json.loads(bench.RESULT.read_text())
    measured = {row["data"] for row in result["rows"]}
    assert measured
    for data in measured:
        assert bench.pages.filled(page, data, bench.document(result, data)) == page
    cells = {(row["data"], row["method"], row["n_labelled"], row["seed"]) for row in result["rows"]}
    assert len(cells) == len(result["rows"])


def test_every_cell_composes(bench):
    for data, study in bench.STUDIES.items():
        for method, of_method in study.methods.items():
            overrides = (*bench.COMMON, f"data={data}", *study.overrides, f"training={method}", *of_method)
            assert set(configure(*overrides).ood) <= {source.removeprefix("ood/") for source in study.sources}


def test_further_seeds_are_for_the_fewest_labels(bench):
    cells = bench.cells(["digits"], 2)
    assert len(cells) == 4 * (3 + 1)
    assert {cell["n_labelled"] for cell in cells if cell["seed"]} == {20}


def test_a_line_has_the_mean_and_spread_of_its_seeds_and_a_dash_for_what_was_not_measured(bench):
    sources = bench.STUDIES["digits"].sources
    rows = [{"accuracy": 0.7, "validation_accuracy": 0.9}, {"accuracy": 0.8, "validation_accuracy": 0.9}]
    assert bench.table_row("vat", 4000, sources, rows) == [
        "4,000",
        "VAT",
        "2",
        "90.0 ± 0.0",
        "75.0 ± 7.1",
        *["– / –"] * 4,
    ]
    judged = {key: dict.fromkeys(sources, value) for key, value in (("auroc", 0.9), ("max_softmax", 0.65))}
    assert bench.table_row("vat", 100, sources, [rows[0] | judged, rows[1]])[5:] == ["90.0 / 65.0"] * 4
