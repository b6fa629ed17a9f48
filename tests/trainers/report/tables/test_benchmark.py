import io

import pytest
from rich.console import Console

from trainers.report.tables.benchmark import benchmark_table, check_benchmark, group_averages

BENCHMARK = {
    "name": "Bench",
    "source": "a paper",
    "near": ["a", "b"],
    "far": ["c"],
    "published": {"low": [50.0, 60.5], "high": [90.25, 91.0]},
}


def run_metrics(**auroc):
    sources = {
        f"ood/{name}": {"auroc": value, "baselines": {"max_softmax": {"auroc": value and value - 0.1}}}
        for name, value in auroc.items()
    }
    sources["errors"] = {"n": 5, "n_good": 95}
    metrics = {"classifier": {"test_accuracy": 0.95}, "seed": 3, "sources": sources}
    return metrics | {"benchmark": group_averages(metrics, BENCHMARK)}


def test_every_set_of_a_group_weighs_the_same():
    found = run_metrics(a=0.8, b=0.9, c=0.7, other=0.1)["benchmark"]
    assert found["near"]["auroc"] == pytest.approx(0.85)
    assert found["near"]["max_softmax"] == pytest.approx(0.75)
    assert found["far"]["auroc"] == 0.7


def test_a_group_that_lacks_a_set_has_no_average():
    metrics = run_metrics(a=0.8, c=0.7)
    assert metrics["benchmark"]["near"]["missing"] == ["b"]
    assert metrics["benchmark"]["near"]["auroc"] is None
    text = benchmark_table(metrics, BENCHMARK).markdown()
    assert "| **gmm_torch** | – | 70.00 | this run |" in text
    assert "missing: b" in text


def test_published_numbers_stand_below_ours_best_first():
    text = benchmark_table(run_metrics(a=0.8, b=0.9, c=0.7), BENCHMARK).markdown()
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert lines == [
        "| **gmm_torch** | 85.00 | 70.00 | this run |",
        "| max softmax | 75.00 | 60.00 | this run |",
        "| high | 90.25 | 91.00 | OpenOOD |",
        "| low | 50.00 | 60.50 | OpenOOD |",
    ]
    for words in ("Bench", "accuracy 95.0 %", "100 test images", "seed 3", "published: a paper"):
        assert words in text
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(benchmark_table(run_metrics(a=0.8, b=0.9, c=0.7), BENCHMARK).terminal())
    assert "85.00" in console.export_text()


def test_a_benchmark_of_sets_that_are_not_there_is_refused():
    check_benchmark(BENCHMARK, ["a", "b", "c", "d"])
    with pytest.raises(
        ValueError, match="expected b among the sets of ood, as Bench averages over them; got other sets: take"
    ):
        check_benchmark(BENCHMARK, ["a", "c"])
