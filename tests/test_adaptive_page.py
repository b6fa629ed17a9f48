"""The tables of docs/adaptive.md are those of the benchmark's results, and say what a row rests on."""

import importlib
import json
import sys

import pytest


@pytest.fixture
def benchmark(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.config.rootpath / "benchmarks"))
    yield importlib.import_module("adaptive")
    sys.modules.pop("adaptive")


def test_the_tables_are_those_of_the_results(benchmark):
    rows = json.loads(benchmark.RESULT.read_text(encoding="utf-8"))
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.filled_page(page, rows) == page
    for each in rows.values():
        assert {"seed", "device", "versions", "classifier", "calibration", "overrides"} <= set(each)
        curves = {(curve["defence"], curve["attack"]): curve["points"] for curve in each["evasion"]["curves"]}
        ours = each["evasion"]["defence"]
        for best, ceiling in zip(curves[ours, "any"], curves["none", "any"], strict=True):
            assert best["n_evaded"] <= ceiling["n_evaded"]
        for points in curves.values():
            assert [point["n_evaded"] for point in points] == sorted(point["n_evaded"] for point in points)
