"""The features of clean images in a plane, by mixture component."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trainers.report.figures.style import CYCLE, INK, WIDE, draw_points, frame, new_axes


def feature_components(points: NDArray[Any], component: NDArray[Any]) -> Figure:
    """Points coloured by component, whose number stands at its median point.

    Args:
        points: (N, 2), N >= 1.
        component: (N,) int. Beyond eight components the colours repeat.
    """
    figure, axes = new_axes((WIDE[0], 3.3))
    low, high = frame(points)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    draw_points(axes, points, np.asarray(CYCLE)[component % len(CYCLE)], size=7, alpha=0.55)
    for k in np.unique(component):
        x, y = np.median(points[component == k], axis=0)
        number = axes.text(x, y, str(k), ha="center", va="center", fontsize=8, fontweight="bold", color=INK)
        number.set_gid(f"halo-{k}")  # the page's style sheet draws a halo around these
    axes.set_xlabel("first principal direction (feature units)")
    axes.set_ylabel("second principal direction")
    return figure
