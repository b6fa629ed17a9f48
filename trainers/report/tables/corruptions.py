"""Corrupted test images, in words and figures: for the terminal and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from trainers.report.tables.results import BASELINE, percent

COLUMNS = ("corruption", "wrong", "accepted", "wrong of accepted", "wrong refused", "AUROC", "softmax AUROC")


def corruption_table(metrics: Mapping[str, Any]) -> Table:
    """The table for the terminal, one row a corruption."""
    table = Table(caption=corruption_caption(metrics), caption_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "corruption" else "right", no_wrap=column == "corruption")
    for row in corruption_rows(metrics):
        table.add_row(*row)
    return table


def corruption_caption(metrics: Mapping[str, Any]) -> str:
    """What the numbers rest on."""
    n = metrics["corruptions"]["clean"]["n"]
    return (
        f"in %, the mean over five severities; the same {n} test images in every row; wrong: error rate, wrong of "
        "accepted: that of the accepted images, wrong refused: the share of the errors that is refused; AUROC of the "
        "errors among them"
    )


def corruption_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the table, the clean images first."""
    found = metrics["corruptions"]
    rows = [("none", *_means([found["clean"]]))]
    return rows + [(name.replace("_", " "), *_means(points)) for name, points in found["kinds"].items()]


def _means(points: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    columns: list[list[float | None]] = [
        [point[key] for point in points] for key in ("error_rate", "coverage", "risk", "refusal_rate", "auroc")
    ]
    columns.append([point["baselines"].get(BASELINE, {}).get("auroc") for point in points])
    return tuple(percent(mean(values)) for values in columns)


def mean(values: Sequence[float | None]) -> float | None:
    """Over the severities that have a value; None where none has."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
