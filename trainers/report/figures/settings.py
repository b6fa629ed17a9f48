"""One source of failure across the settings of a sweep."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import OURS, SOFTMAX, new_axes

WIDTH, ROW = 4.3, 0.24  # inches
REACH = 10  # points of AUROC that the axis shows at least, so that a few tenths look like a few tenths

Point = tuple[float | None, float | None]
"""Mean and standard deviation over seeds, shares in [0, 1]; None where there is none."""


def settings(names: Sequence[str], ours: Sequence[Point], softmax: Sequence[Point]) -> Figure:
    """A row a setting, from top to bottom: AUROC of the score, filled, and of the softmax, hollow, if it was kept."""
    figure, axes = new_axes((WIDTH, 0.7 + ROW * len(names)))
    for points, colour, face in ((softmax, SOFTMAX, "none"), (ours, OURS, OURS)):
        known = [(row, mean, std or 0.0) for row, (mean, std) in enumerate(points) if mean is not None]
        if known:
            at, means, stds = zip(*known, strict=True)
            place, reach = 100 * np.array(means), 100 * np.array(stds)
            axes.errorbar(
                place, at, xerr=reach, fmt="o", color=colour, markerfacecolor=face, markersize=4.5, elinewidth=1
            )
    axes.set_yticks(range(len(names)), names)
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, right - REACH), right)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="AUROC (%)")
    return figure
