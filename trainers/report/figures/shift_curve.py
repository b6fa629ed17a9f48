"""False alarms of plain and weighted calibration by severity of a corruption."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import ERRORS, INK, OURS, SMALL, new_axes


def shift_curve(points: Sequence[Mapping[str, Any]], alpha: float) -> Figure:
    """Share refused, in per cent, with 95 % intervals, by severity from 0 on.

    Args:
        points: by rising severity, as in metrics.json under `shifts`, the images as they are first.
        alpha: what is promised.
    """
    figure, axes = new_axes(SMALL)
    for key, colour, line in (("plain", ERRORS, (0, (4, 1.5))), ("weighted", OURS, "solid")):
        known = [(i, point[key]) for i, point in enumerate(points) if "false_alarm_rate" in point[key]]
        if not known:
            continue
        heights = 100 * np.array([each["false_alarm_rate"] for _, each in known])
        low, high = 100 * np.array([each["false_alarm_interval"] for _, each in known]).T
        axes.errorbar(
            [i for i, _ in known],
            heights,
            yerr=(np.maximum(heights - low, 0), np.maximum(high - heights, 0)),
            color=colour,
            linestyle=line,
            marker="o",
            markersize=2.5,
            clip_on=False,
        )
    axes.axhline(100 * alpha, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xticks(range(len(points)))
    axes.set_ylim(0, 100)
    axes.set_xlabel("severity")
    axes.set_ylabel("refused (%)")
    return figure
