"""Rates with their intervals: false alarms by predicted class, errors by p-value."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import ERRORS, INK, OURS, WIDE, new_axes, rate_bars

MAX_CLASSES = 15  # shown, those with the highest rates
MAX_NAME = 18  # letters


def class_alarms(
    names: Sequence[str], rates: Sequence[float], intervals: Sequence[tuple[float, float]], alpha: float
) -> Figure:
    """Share in [0, 1] of clean images refused in each of C predicted classes, with its interval.

    The line is the false alarm rate that was asked for.
    """
    figure, axes = new_axes(WIDE)
    shown = np.argsort(-np.asarray(rates, dtype=float), kind="stable")[:MAX_CLASSES].tolist()
    order = sorted(shown, reverse=True)  # the first class at the top
    middle, reach = rate_bars([rates[i] for i in order], [intervals[i] for i in order])
    place = np.arange(len(order))
    axes.errorbar(middle, place, xerr=reach, fmt="o", color=OURS, markersize=4, linewidth=1.2, clip_on=False)
    axes.axvline(100 * alpha, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_yticks(place, [names[i][:MAX_NAME] for i in order])
    axes.grid(False, axis="y")
    axes.set(xlim=(0, None), xlabel="clean images refused (%)", ylabel="predicted class")
    return figure


def error_rate(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """Error rate in each bin of the p-value, with its interval; bins without images are left open.

    Args:
        bins: each with "high", the upper edge, "n", "rate" and "interval", as in metrics.json.
    """
    figure, axes = new_axes(WIDE)
    found = [i for i, each in enumerate(bins) if each["n"]]
    middle, reach = rate_bars([bins[i]["rate"] for i in found], [bins[i]["interval"] for i in found])
    axes.errorbar(found, middle, yerr=reach, fmt="o", color=ERRORS, markersize=4, linewidth=1.2, clip_on=False)
    axes.set_xticks(np.arange(len(bins)), [f"{each['high']:g}" for each in bins])
    axes.grid(False, axis="x")
    axes.set(xlim=(-0.6, len(bins) - 0.4), ylim=(0, 100), xlabel="p-value, up to", ylabel="wrong predictions (%)")
    return figure
