"""The tables of `docs/training.md`, from `benchmarks/results/training.json` and `training_overhead.json`."""

import json
import statistics
from collections.abc import Iterable
from typing import Any

import pages
from timings import check_quartiles

PAGE = pages.ROOT / "docs" / "training.md"
SOURCES = ("errors", "ood", "attack")
TITLES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST"}
ORDER = ("plain", "online", "gradient", "implicit", "spectral")
TOLERANCE = 0.005  # of validation accuracy, that a lambda may cost
Run = dict[str, Any]


def spread(values: Iterable[float | None]) -> str:
    """Mean and standard deviation over seeds, in per cent."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    deviation = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{deviation}"


def chosen(groups: dict[str, list[Run]]) -> set[str]:
    """Of each way of the likelihood term, the lambda that validation images choose; see `training.py`."""
    plain = statistics.mean(run["validation_accuracy"] for run in groups["plain"])
    best: dict[str, tuple[float, str]] = {}
    for variant, runs in groups.items():
        way, _, weight = variant.partition(" ")
        if not weight[:1].isdigit() or len(runs) < len(groups["plain"]):
            continue
        accuracy, likelihood = (
            statistics.mean(run[key] for run in runs) for key in ("validation_accuracy", "validation_log_likelihood")
        )
        if accuracy >= plain - TOLERANCE:
            best[way] = max(best.get(way, (likelihood, variant)), (likelihood, variant))
    return {variant for _, variant in best.values()}


def grouped(runs: list[Run], data: str) -> dict[str, list[Run]]:
    """Runs of a data set by variant, of the seeds that all variants were tried with, so that rows compare.

    Where a training failed, its row has the fewer runs.
    """
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (ORDER.index(run["variant"].split(" ")[0]), run["variant"], run["seed"])):
        if run["data"] == data:
            groups.setdefault(run["variant"], []).append(run)
    common = set.intersection(*({run["seed"] for run in group} for group in groups.values())) if groups else set()
    return {
        variant: [run for run in group if run["seed"] in common and "failure" not in run]
        for variant, group in groups.items()
        if common
    }


def failures(runs: list[Run], data: str) -> str:
    """A sentence for each way in which trainings of a variant failed; nothing where none did."""
    found: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        if run["data"] == data and "failure" in run:
            found.setdefault(run["variant"], {}).setdefault(run["failure"], []).append(run)
    sentences = ""
    for variant, reasons in found.items():
        for reason, failed in reasons.items():
            seeds = ", ".join(f"{run['seed']} (at step {run['steps']:,})" for run in failed)
            sentences += f" {named(variant)} did not get through the training with seed {seeds}: `{reason}`."
    return sentences


def named(variant: str) -> str:
    """What the page calls a variant."""
    others = {"plain": "cross entropy", "spectral norm": "cross entropy, spectral norm"}
    return others.get(variant, variant.replace(" ", ", λ = "))


def likelihood_table(found: dict[str, Any], data: str) -> str:
    """Accuracy and detection of every variant."""
    groups = grouped(found["runs"], data)
    picked = chosen(groups)
    head = ["loss", "seeds", "accuracy", "log p, validation"]
    head += [f"AUROC {source}" for source in SOURCES] + [f"softmax {source}" for source in SOURCES]
    rows = []
    for variant, runs in groups.items():
        name = named(variant)
        numbers = [spread(run["accuracy"] for run in runs)]
        numbers.append(f"{statistics.mean(run['validation_log_likelihood'] for run in runs):.2f}" if runs else "–")
        numbers += [
            spread(run[score].get(source) for run in runs) for score in ("density", "softmax") for source in SOURCES
        ]
        rows.append([f"**{name}**" if variant in picked else name, str(len(runs)), *numbers])
    some = [run for runs in groups.values() for run in runs]
    attacked = [run["n_attacked"] for run in some]
    errors = [run["n_errors"] for run in some]
    words = (
        "In %, mean ± standard deviation over seeds from 0 on; log p in nats a dimension. "
        f"{some[0]['n_test']:,} test images, {min(errors)} to {max(errors)} errors, {some[0]['n_ood']:,} OOD images, "
        f"{min(attacked)} to {max(attacked)} attacked ones.{failures(found['runs'], data)} {setting(found)}"
    )
    return f"{pages.table(head, rows)}\n\n{words}"


def online_table(found: dict[str, Any]) -> str:
    """The online mixture beside one fitted afterwards."""
    rows = []
    for data, title in TITLES.items():
        runs = [run for run in found["runs"] if run["data"] == data and "online" in run]
        for name in ("online", "exact passes", "fitted afterwards"):
            judged = [run["density"] if name == "fitted afterwards" else run["online"].get(name, {}) for run in runs]
            if not any(judged):
                continue
            numbers = [spread(each.get(source) for each in judged) for source in SOURCES]
            rows.append([f"{title}: {name}", str(len(runs)), *numbers])
    return f"{pages.table(['mixture', 'seeds', *(f'AUROC {s}' for s in SOURCES)], rows)}\n\nIn %. {setting(found)}"


def setting(found: dict[str, Any]) -> str:
    """Device and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"CPU ({found['device']}), {found['threads']} thread; {versions}."


def overhead_table(found: dict[str, Any]) -> str:
    """What a step costs."""
    rows = [
        ["training step", f"{1000 * found['seconds_without']:.0f}"],
        ["with the mixture", f"{1000 * found['seconds_with']:.0f}"],
        ["added, median of pairs", f"{1000 * found['seconds_added']:.1f}"],
        [f"renewal on {found['renewal_points']:,} points, once an epoch", f"{1000 * found['renewal_seconds']:.0f}"],
    ]
    low, high = found["quartiles"]
    check_quartiles("ratio of a training step", found["ratio"], low, high)
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    words = (
        f"{found['classifier']}, batch {found['batch']}, {found['pairs']} pairs, {found['clock']}, {found['threads']} "
        f"threads, CPU ({found['device']}); {versions}. Ratio of a pair, median: **{found['ratio']:.3f}** (quartiles "
        f"{low:.3f} and {high:.3f}; goal {found['goal']:g}). A renewal is "
        f"{100 * found['renewal_share_of_epoch']:.1f} % of an epoch of 50,000 images."
    )
    return f"{pages.table(['what', 'ms'], rows)}\n\n{words}"


def filled(page: str) -> str:
    """The page with the tables for which there are results.

    Raises:
        ValueError: a marker is missing.
    """
    results = {name: pages.RESULTS / f"{name}.json" for name in ("training", "training_overhead")}
    if results["training_overhead"].exists():
        page = pages.filled(page, "overhead", overhead_table(json.loads(results["training_overhead"].read_text())))
    if results["training"].exists():
        found = json.loads(results["training"].read_text())
        page = pages.filled(page, "online", online_table(found))
        for data in TITLES:
            if len(grouped(found["runs"], data)) > 1:
                page = pages.filled(page, f"likelihood {data}", likelihood_table(found, data))
    return page


def write_page() -> None:
    """Renew the tables."""
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    write_page()
