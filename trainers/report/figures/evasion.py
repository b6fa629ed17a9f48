"""Evasion rate by perturbation budget."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import CORRECT, OURS, SOFTMAX, WIDE, legend_below, new_axes, rate_bars

KINDS: dict[str, tuple[str, str, Any]] = {
    "undefended": ("no detector", CORRECT, (0, (1, 1.5))),
    "static": ("detector, attack that does not know it", OURS, (0, (4, 1.5))),
    "softmax": ("softmax, adaptive", SOFTMAX, "solid"),
    "adaptive": ("detector, adaptive", OURS, "solid"),
}
"""Curve -> label, colour, line."""


def evasion(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Share of attacked images that are wrong and accepted against the budget, with intervals.

    Args:
        curves: key of `KINDS` -> points with "epsilon" in [0, 1], "rate" and "interval", as in metrics.json.
    """
    figure, axes = new_axes(WIDE)
    for name, (label, colour, line) in KINDS.items():
        points = curves.get(name)
        if not points:
            continue
        budget = [255 * point["epsilon"] for point in points]
        middle, reach = rate_bars([point["rate"] for point in points], [point["interval"] for point in points])
        axes.plot(budget, middle, color=colour, linestyle=line, label=label, marker="o", markersize=2.5, clip_on=False)
        if line == "solid":
            axes.fill_between(budget, middle - reach[0], middle + reach[1], color=colour, alpha=0.15, linewidth=0)
    budgets = np.unique([255 * point["epsilon"] for points in curves.values() for point in points])
    if len(budgets) and budgets.min() > 0:
        axes.set_xscale("log", base=2)
        axes.set_xticks(budgets, [f"{budget:.3g}" for budget in budgets])
        axes.minorticks_off()
    axes.set(ylim=(0, 100), xlabel="budget: largest change of a pixel, in 1/255", ylabel="wrong and accepted (%)")
    legend_below(figure, 2)
    return figure
