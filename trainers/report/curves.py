"""Sections of figures beside the table of the same numbers: attacks at growing budgets, corruptions, shifts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainers.report.figures.budget_curve import budget_curve
from trainers.report.figures.severity_curves import severity_curve, shift_curve
from trainers.report.svg import Panel, panel
from trainers.report.tables.attacks import budget_table
from trainers.report.tables.corruptions import corruption_table, mean
from trainers.report.tables.format import TextTable
from trainers.report.tables.shifts import shift_table
from trainers.report.tables.text import of_softmax, percent, source_label


class Curves(NamedTuple):
    """Figures, and the table of the same numbers."""

    panels: list[Panel]
    table: TextTable


def budget_curves(metrics: Mapping[str, Any]) -> Curves | None:
    """A figure an attack; None where there is none."""
    if not metrics.get("sweeps"):
        return None
    panels = []
    for i, (name, points) in enumerate(metrics["sweeps"].items()):
        note = f"{points[0]['n_attacked']} images attacked; budgets in {points[0]['norm'].capitalize()}"
        panels.append(panel(f"budget{i}", source_label(f"adversarial/{name}"), note, budget_curve(points)))
    return Curves(panels, budget_table(metrics))


def severity_curves(metrics: Mapping[str, Any]) -> Curves | None:
    """A figure a corruption; None where there is none."""
    found = metrics.get("corruptions")
    if not found:
        return None
    panels = []
    for i, (name, points) in enumerate(found["kinds"].items()):
        ours, base = (percent(mean([of(point) for point in points])) for of in (lambda p: p["auroc"], of_softmax))
        note = f"AUROC of errors {ours}, softmax {base}"
        panels.append(panel(f"severity{i}", name.replace("_", " "), note, severity_curve([found["clean"], *points])))
    return Curves(panels, corruption_table(metrics))


def shift_curves(metrics: Mapping[str, Any]) -> Curves | None:
    """A figure a corruption; None where there is no shift."""
    found = metrics.get("shifts")
    if not found:
        return None
    same, *others = found["rows"]
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in others:
        if row["shift"] == "corruptions":
            kinds.setdefault(row["kind"].rpartition(" ")[0], []).append(row)
    panels = []
    for i, (name, points) in enumerate(kinds.items()):
        lost = sum("reason" in point["weighted"] for point in points)
        note = f"with weights nothing can be promised at {lost} of {len(points)} severities" if lost else ""
        figure = shift_curve([same, *points], found["alpha"])
        panels.append(panel(f"shift{i}", name.replace("_", " "), note, figure))
    return Curves(panels, shift_table(metrics))
