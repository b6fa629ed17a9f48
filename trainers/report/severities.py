"""Corrupted test images, severity by severity."""

from collections.abc import Mapping
from typing import Any

from trainers.report.figures.severity_curve import severity_curve
from trainers.report.panel import Panel, panel
from trainers.report.tables.corruptions import mean
from trainers.report.tables.results import BASELINE, percent


def severity_panels(metrics: Mapping[str, Any]) -> list[Panel]:
    """One figure a corruption."""
    found = metrics.get("corruptions") or {"kinds": {}}
    panels = []
    for i, (name, points) in enumerate(found["kinds"].items()):
        ours = percent(mean([point["auroc"] for point in points]))
        softmax = percent(mean([point["baselines"].get(BASELINE, {}).get("auroc") for point in points]))
        note = f"AUROC of errors {ours}, softmax {softmax}"
        panels.append(panel(f"severity{i}", name.replace("_", " "), note, severity_curve([found["clean"], *points])))
    return panels
