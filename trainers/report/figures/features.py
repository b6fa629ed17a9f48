"""The features in a plane: of clean images by mixture component, and of one source of failure over them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trainers.report.figures.style import CORRECT, CYCLE, INK, SMALL, WIDE, draw_points, new_axes

CHARACTER, LINE = 0.026, 0.065  # width and height of a number's character, as shares of the frame


def feature_components(points: NDArray[Any], component: NDArray[Any]) -> Figure:
    """Points coloured by component, whose number stands at its median point, or at the nearest where it has room.

    Args:
        points: (N, 2), N >= 1.
        component: (N,) int. Beyond eight components the colours repeat.
    """
    figure, axes = new_axes((WIDE[0], 3.3))
    _frame(axes, points)
    draw_points(axes, points, np.asarray(CYCLE)[component % len(CYCLE)], size=7, alpha=0.55)
    for k, (x, y) in _places(points, component).items():
        number = axes.text(x, y, str(k), ha="center", va="center", fontsize=8, fontweight="bold", color=INK)
        number.set_gid(f"halo-{k}")  # the page's style sheet draws a halo around these
    axes.set(xlabel="first principal direction (feature units)", ylabel="second principal direction")
    return figure


def feature_failures(correct: NDArray[Any], failures: NDArray[Any], colour: str) -> Figure:
    """Failures (M, 2) over correctly classified images (N, 2), N >= 1; those `beyond_frame` are at its edge."""
    figure, axes = new_axes(SMALL)
    _frame(axes, correct)
    draw_points(axes, correct, CORRECT, size=4, alpha=0.3, limit=2500)
    size = min(max(2000 / max(1, len(failures)), 5), 30)  # a few failures must be seen among many points
    draw_points(axes, failures, colour, size, alpha=0.6, limit=1500)
    axes.set(xlabel="first principal direction", ylabel="second principal direction")
    return figure


def beyond_frame(correct: NDArray[Any], failures: NDArray[Any]) -> int:
    """How many of the failures are drawn at the edge of the frame of `feature_failures`, since they lie beyond it."""
    low, high = _limits(correct)
    return int(((failures < low) | (failures > high)).any(1).sum())


def _frame(axes: Axes, points: NDArray[Any]) -> None:
    (left, bottom), (right, top) = _limits(points)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _limits(points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lower left and upper right (2,) of a frame of nearly all of (N, 2) points: the middle 99 %, and a margin."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    margin = 0.25 * np.maximum(high - low, 1e-9)
    return low - margin, high + margin


def _places(points: NDArray[Any], component: NDArray[Any]) -> dict[int, NDArray[Any]]:
    """Where each component's number stands, (2,), those of many points first: apart from all that have a place.

    A number stays with its component: without room at the median, it stands at the point nearest to that which has
    room, and where none has, at the one that has most.
    """
    low, high = _limits(points)
    names, counts = np.unique(component, return_counts=True)
    taken: dict[int, NDArray[Any]] = {}
    for k in names[np.argsort(-counts, kind="stable")].tolist():
        own = points[component == k]
        median = np.median(own, axis=0)
        order = np.argsort(np.linalg.norm((own - median) / (high - low), axis=1), kind="stable")
        tried = np.vstack([median, own[order]])
        room = np.full(len(tried), np.inf)
        for other, place in taken.items():
            size = np.array([CHARACTER * (len(str(k)) + len(str(other))) / 2, LINE]) * (high - low)
            room = np.minimum(room, (np.abs(tried - place) / size).max(1))  # below 1 they overlap
        inside = ((tried >= low) & (tried <= high)).all(1)
        room = np.where(inside, room, 0)
        taken[k] = tried[np.argmax(room >= 1) if (room >= 1).any() else np.argmax(room)]
    return taken
