"""Attacks at growing budgets, and why results of attacks can't be trusted."""

from collections.abc import Mapping
from typing import Any

from trainers.report.figures.budget_curve import budget_curve
from trainers.report.panel import Panel, panel
from trainers.report.tables.results import source_label


def budget_panels(metrics: Mapping[str, Any]) -> list[Panel]:
    """One figure an attack."""
    return [
        panel(
            f"budget{i}",
            source_label(f"adversarial/{name}"),
            f"{points[0]['n_attacked']} images attacked; budgets in {points[0]['norm'].capitalize()}",
            budget_curve(points),
        )
        for i, (name, points) in enumerate(metrics.get("sweeps", {}).items())
    ]


def diagnostic_lines(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name of the attack, and a sentence."""
    found = metrics.get("attack_doubts", {})
    return [(source_label(f"adversarial/{name}"), text) for name, sentences in found.items() for text in sentences]
