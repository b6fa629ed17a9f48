"""Attacks at several budgets, in words and figures: for the terminal and for Markdown."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from trainers.report.tables.results import BASELINE, MISSING, percent

COLUMNS = ("attack", "epsilon", "success", "Linf", "L2", "s", "AUROC", "softmax", "refused", "evaded")
CAPTION = (
    "success, AUROC of ours and of the softmax, refused (of the successes), evaded (of the attacked images, those that "
    "end up wrong and accepted) in %; Linf and L2: median perturbation; s: seconds an image; the attack does not know "
    "the detector"
)


def budget_table(metrics: Mapping[str, Any]) -> Table:
    """The table for the terminal, one row a budget."""
    table = Table(caption=budget_caption(metrics), caption_justify="left", padding=0)  # ten columns
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "attack" else "right", no_wrap=True)
    for row in budget_rows(metrics):
        table.add_row(*row)
    return table


def budget_caption(metrics: Mapping[str, Any]) -> str:
    """What the numbers rest on."""
    attacked = {name: points[0]["n_attacked"] for name, points in metrics["sweeps"].items()}
    counts = ", ".join(f"{name}: {n} images attacked" for name, n in attacked.items())
    return f"{CAPTION}; {counts}"


def budget_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the table."""
    return [
        (
            name.replace("_", " "),
            epsilon_text(point["epsilon"]),
            percent(point["success_rate"]),
            number(point["median_linf"], 2),
            number(point["median_l2"], 2),
            number(point["seconds_per_image"], 2),
            percent(point["auroc"]),
            percent(point["baselines"].get(BASELINE, {}).get("auroc")),
            percent(point["refusal_rate"]),
            percent(point["evasion_rate"]),
        )
        for name, points in metrics["sweeps"].items()
        for point in points
    ]


def epsilon_text(epsilon: float | None) -> str:
    """A budget in words: 0.0078 -> "2/255" where it is a multiple of a quarter of 1/255 up to 16, else the number."""
    if epsilon is None:
        return MISSING
    levels = 255 * epsilon
    if levels <= 16 and abs(4 * levels - round(4 * levels)) < 1e-6:
        return f"{levels:g}/255"
    return f"{epsilon:.3g}"


def number(value: float | None, digits: int) -> str:
    """Some significant digits, None -> a dash."""
    return MISSING if value is None else f"{value:.{digits}g}"
