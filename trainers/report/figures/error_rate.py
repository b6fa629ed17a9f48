"""Error rate by p-value."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import ERRORS, WIDE, new_axes, rate_bars


def error_rate(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """Error rate in each bin of the p-value, with its interval; bins without images are left open.

    Args:
        bins: each with "high", the upper edge, "n", "rate" and "interval", as in metrics.json.
    """
    figure, axes = new_axes(WIDE)
    found = [i for i, each in enumerate(bins) if each["n"]]
    rates = [bins[i]["rate"] for i in found]
    intervals = [bins[i]["interval"] for i in found]
    middle, below, above = rate_bars(rates, intervals)
    axes.errorbar(found, middle, yerr=(below, above), fmt="o", color=ERRORS, markersize=4, linewidth=1.2, clip_on=False)
    axes.set_xticks(np.arange(len(bins)), [f"{each['high']:g}" for each in bins])
    axes.set_xlim(-0.6, len(bins) - 0.4)
    axes.set_ylim(0, 100)
    axes.grid(False, axis="x")
    axes.set_xlabel("p-value, up to")
    axes.set_ylabel("wrong predictions (%)")
    return figure
