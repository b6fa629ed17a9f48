"""False alarms by predicted class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import INK, OURS, WIDE, new_axes, rate_bars

MAX_CLASSES = 15  # shown, those with the highest rates
MAX_NAME = 18  # letters


def class_alarms(
    names: Sequence[str], rates: Sequence[float], intervals: Sequence[tuple[float, float]], alpha: float
) -> Figure:
    """Share of clean images refused in each predicted class, with its interval; the line is what was asked for.

    Args:
        names: (C,) of the classes that have images.
        rates: (C,) in [0, 1].
        intervals: (C,) pairs around the rates.
        alpha: the false alarm rate that was asked for.
    """
    figure, axes = new_axes(WIDE)
    shown = np.argsort(-np.asarray(rates, dtype=float), kind="stable")[:MAX_CLASSES].tolist()
    order = sorted(shown, reverse=True)  # the first class at the top
    middle, below, above = rate_bars([rates[i] for i in order], [intervals[i] for i in order])
    place = np.arange(len(order))
    axes.errorbar(middle, place, xerr=(below, above), fmt="o", color=OURS, markersize=4, linewidth=1.2, clip_on=False)
    axes.axvline(100 * alpha, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_yticks(place, [names[i][:MAX_NAME] for i in order])
    axes.set_xlim(0, None)
    axes.grid(False, axis="y")
    axes.set_xlabel("clean images refused (%)")
    axes.set_ylabel("predicted class")
    return figure
