"""The features in a plane: of clean images by mixture component, and of one source of failure over them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trainers.report.figures.style import CORRECT, CYCLE, INK, SMALL, WIDE, draw_points, new_axes


def feature_components(points: NDArray[Any], component: NDArray[Any]) -> Figure:
    """Points coloured by component, whose number stands at its median point.

    Args:
        points: (N, 2), N >= 1.
        component: (N,) int. Beyond eight components the colours repeat.
    """
    figure, axes = new_axes((WIDE[0], 3.3))
    _frame(axes, points)
    draw_points(axes, points, np.asarray(CYCLE)[component % len(CYCLE)], size=7, alpha=0.55)
    for k in np.unique(component):
        x, y = np.median(points[component == k], axis=0)
        number = axes.text(x, y, str(k), ha="center", va="center", fontsize=8, fontweight="bold", color=INK)
        number.set_gid(f"halo-{k}")  # the page's style sheet draws a halo around these
    axes.set(xlabel="first principal direction (feature units)", ylabel="second principal direction")
    return figure


def feature_failures(correct: NDArray[Any], failures: NDArray[Any], colour: str) -> Figure:
    """Failures (M, 2) over correctly classified images (N, 2), N >= 1; those beyond the frame are at its edge."""
    figure, axes = new_axes(SMALL)
    _frame(axes, correct)
    draw_points(axes, correct, CORRECT, size=4, alpha=0.3, limit=2500)
    size = min(max(2000 / max(1, len(failures)), 5), 30)  # a few failures must be seen among many points
    draw_points(axes, failures, colour, size, alpha=0.6, limit=1500)
    axes.set(xlabel="first principal direction", ylabel="second principal direction")
    return figure


def _frame(axes: Axes, points: NDArray[Any]) -> None:
    """Limit the axes to nearly all of (N, 2) points: the middle 99 %, and a margin."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    margin = 0.25 * np.maximum(high - low, 1e-9)
    (left, bottom), (right, top) = low - margin, high + margin
    axes.set(xlim=(left, right), ylim=(bottom, top))
