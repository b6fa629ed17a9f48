"""The features of one source of failure in a plane, over those of correctly classified images."""

from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from trainers.report.figures.style import CORRECT, SMALL, draw_points, frame, new_axes


def feature_failures(correct: NDArray[Any], failures: NDArray[Any], colour: str) -> Figure:
    """Failures over correctly classified images; failures beyond the frame are drawn at its edge.

    Args:
        correct: (N, 2), N >= 1.
        failures: (M, 2).
        colour: of the failures.
    """
    figure, axes = new_axes(SMALL)
    low, high = frame(correct)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    draw_points(axes, correct, CORRECT, size=4, alpha=0.3, limit=2500)
    size = min(max(2000 / max(1, len(failures)), 5), 30)  # a few failures must be seen among many points
    draw_points(axes, failures, colour, size, alpha=0.6, limit=1500)
    axes.set_xlabel("first principal direction")
    axes.set_ylabel("second principal direction")
    return figure
