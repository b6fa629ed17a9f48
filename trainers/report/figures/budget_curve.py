"""Success and detection of an attack against its budget."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import ADVERSARIAL, CORRECT, INK, OURS, SOFTMAX, WIDE, legend_below, new_axes
from trainers.report.tables.text import epsilon_text, of_softmax


def budget_curve(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Success, detection and what passes, in per cent, against the budget, of the points of an attack by rising budget.

    They are those of metrics.json under `sweeps`; there are gaps where there was no success.
    """
    figure, axes = new_axes(WIDE)
    budgets = [point["epsilon"] for point in points]
    dashed, dotted = (0, (4, 1.5)), (0, (1, 1.5))
    curves: list[tuple[str, list[float | None], str, Any]] = [
        ("success", [point["success_rate"] for point in points], ADVERSARIAL, "solid"),
        ("evaded: wrong, accepted", [point["evasion_rate"] for point in points], INK, "solid"),
        ("refused of successes", [point["refusal_rate"] for point in points], CORRECT, dotted),
        ("AUROC, ours", [point["auroc"] for point in points], OURS, dashed),
        ("AUROC, softmax", [of_softmax(point) for point in points], SOFTMAX, dashed),
    ]
    for label, values, colour, line in curves:
        heights = 100 * np.array(values, dtype=float)  # None becomes NaN, which is not drawn
        axes.plot(budgets, heights, color=colour, linestyle=line, label=label, marker="o", markersize=3, clip_on=False)
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [epsilon_text(budget) for budget in budgets])
    axes.minorticks_off()
    axes.set(ylim=(0, 100), xlabel="budget of the attack", ylabel="%")
    legend_below(figure, 3)
    return figure
