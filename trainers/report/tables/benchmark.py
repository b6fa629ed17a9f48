"""Averages over groups of out-of-distribution sets, beside the numbers that a benchmark has published."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.report.tables.format import TextTable
from trainers.report.tables.results import n_test_images
from trainers.report.tables.text import BASELINE, percent

GROUPS = ("near", "far")
COLUMNS = ("method", "near-OOD", "far-OOD", "measured by")
FILE = "benchmark.md"


def group_averages(metrics: Mapping[str, Any], benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """The mean AUROC over the near and over the far sets, as OpenOOD v1.5 takes it: each set weighs the same.

    Returns:
        name; near and far: sets, missing (those that the run lacks), auroc and max_softmax in [0, 1], both None where
        one is missing.
    """
    return {"name": benchmark["name"], **{group: _average(metrics["sources"], benchmark[group]) for group in GROUPS}}


def _average(sources: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    missing = [name for name in names if f"ood/{name}" not in sources]
    found = [sources[f"ood/{name}"] for name in names if name not in missing]
    columns = {
        "auroc": [source["auroc"] for source in found],
        BASELINE: [source["baselines"][BASELINE]["auroc"] for source in found],
    }
    means = {name: None if missing or None in values else sum(values) / len(values) for name, values in columns.items()}
    return {"sets": list(names), "missing": missing, **means}


def check_benchmark(benchmark: Mapping[str, Any], ood: Sequence[str]) -> None:
    """Raise ValueError when a benchmark averages over sets that the config does not name."""
    unknown = [name for group in GROUPS for name in benchmark[group] if name not in ood]
    if unknown:
        raise ValueError(
            f"expected {', '.join(unknown)} among the sets of ood, as {benchmark['name']} averages over them; "
            "got other sets: take the experiment of that benchmark, or set benchmark=null"
        )


def benchmark_table(metrics: Mapping[str, Any], benchmark: Mapping[str, Any]) -> TextTable:
    """Ours, then the published methods, the best first; AUROC in per cent."""
    found = metrics["benchmark"]
    rows = [
        (label, *(percent(found[group][name], 2) for group in GROUPS), "this run")
        for label, name in (("gmm_torch", "auroc"), ("max softmax", BASELINE))
    ]
    for name, values in sorted(benchmark["published"].items(), key=lambda item: -sum(item[1])):
        rows.append((name, *(f"{value:.2f}" for value in values), "OpenOOD"))
    return TextTable(COLUMNS, rows, benchmark_caption(metrics, benchmark), bold={(0, 0)}, sections=(1,))


def benchmark_caption(metrics: Mapping[str, Any], benchmark: Mapping[str, Any]) -> str:
    """What is averaged, what this run had, and where the published numbers are from."""
    facts = [f"{benchmark['name']}: mean AUROC in %"]
    for group in GROUPS:
        found = metrics["benchmark"][group]
        lacking = f" (missing: {', '.join(found['missing'])})" if found["missing"] else ""
        facts.append(f"{group}: {', '.join(found['sets'])}{lacking}")
    accuracy = percent(metrics["classifier"]["test_accuracy"])
    facts.append(f"this run: accuracy {accuracy} %, {n_test_images(metrics)} test images, seed {metrics['seed']}")
    return "; ".join([*facts, f"published: {benchmark['source']}"])
