"""Attacks at growing budgets."""

from collections.abc import Mapping
from typing import Any

from trainers.report.tables.format import TextTable
from trainers.report.tables.text import epsilon_text, number, of_softmax, percent

COLUMNS = ("attack", "epsilon", "success", "Linf", "L2", "s", "AUROC", "softmax", "refused", "evaded")
CAPTION = (
    "success, AUROC of ours and of the softmax, refused (of the successes), evaded (of the attacked images, those that "
    "end up wrong and accepted) in %; Linf and L2: median perturbation; s: seconds an image; the attack does not know "
    "the detector"
)


def budget_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row a budget."""
    rows = [
        (
            name.replace("_", " "),
            epsilon_text(point["epsilon"]),
            percent(point["success_rate"]),
            number(point["median_linf"], 2),
            number(point["median_l2"], 2),
            number(point["seconds_per_image"], 2),
            percent(point["auroc"]),
            percent(of_softmax(point)),
            percent(point["refusal_rate"]),
            percent(point["evasion_rate"]),
        )
        for name, points in metrics["sweeps"].items()
        for point in points
    ]
    counts = ", ".join(
        f"{name}: {points[0]['n_attacked']} images attacked" for name, points in metrics["sweeps"].items()
    )
    return TextTable(COLUMNS, rows, f"{CAPTION}; {counts}", wraps=False, padding=0)  # ten columns
