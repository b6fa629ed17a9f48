"""Corrupted test images."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.report.tables.format import TextTable
from trainers.report.tables.text import of_softmax, percent

COLUMNS = ("corruption", "wrong", "accepted", "wrong of accepted", "wrong refused", "AUROC", "softmax AUROC")


def corruption_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row a corruption, the clean images first."""
    found = metrics["corruptions"]
    kinds = {"none": [found["clean"]], **found["kinds"]}
    caption = (
        f"in %, the mean over five severities; the same {found['clean']['n']} test images in every row; wrong: error "
        "rate, wrong of accepted: that of the accepted images, wrong refused: the share of the errors that is refused; "
        "AUROC of the errors among them"
    )
    return TextTable(COLUMNS, [(name.replace("_", " "), *_means(points)) for name, points in kinds.items()], caption)


def _means(points: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    columns: list[list[float | None]] = [
        [point[key] for point in points] for key in ("error_rate", "coverage", "risk", "refusal_rate", "auroc")
    ]
    columns.append([of_softmax(point) for point in points])
    return tuple(percent(mean(values)) for values in columns)


def mean(values: Sequence[float | None]) -> float | None:
    """Over the severities that have a value; None where none has."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
