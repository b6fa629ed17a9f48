"""What becomes of predictions as a corruption grows: errors and coverage, false alarms of weighted calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import CORRECT, ERRORS, INK, OURS, SMALL, new_axes, rate_bars


def severity_curve(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Error rate of all and of the accepted images, and the share accepted, in per cent, against the severity.

    Args:
        points: by rising severity, as in metrics.json under `corruptions`, the clean images first.
    """
    figure, axes = new_axes(SMALL)
    severity = [point["severity"] for point in points]
    for key, colour, line in (
        ("coverage", CORRECT, (0, (1, 1.5))),
        ("error_rate", ERRORS, (0, (4, 1.5))),
        ("risk", OURS, "solid"),
    ):
        heights = 100 * np.array([point[key] for point in points], dtype=float)  # None becomes NaN, which is not drawn
        axes.plot(severity, heights, color=colour, linestyle=line, marker="o", markersize=2.5, clip_on=False)
    axes.set_xticks(severity)
    axes.set(ylim=(0, 100), xlabel="severity", ylabel="%")
    return figure


def shift_curve(points: Sequence[Mapping[str, Any]], alpha: float) -> Figure:
    """Share refused, in per cent, with 95 % intervals, by severity; at most `alpha` is promised.

    Args:
        points: by rising severity, as in metrics.json under `shifts`, the images as they are first.
    """
    figure, axes = new_axes(SMALL)
    for key, colour, line in (("plain", ERRORS, (0, (4, 1.5))), ("weighted", OURS, "solid")):
        known = [i for i, point in enumerate(points) if "false_alarm_rate" in point[key]]
        found = [points[i][key] for i in known]
        if found:
            heights, reach = rate_bars(
                [each["false_alarm_rate"] for each in found], [each["false_alarm_interval"] for each in found]
            )
            axes.errorbar(
                known, heights, yerr=reach, color=colour, linestyle=line, marker="o", markersize=2.5, clip_on=False
            )
    axes.axhline(100 * alpha, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xticks(range(len(points)))
    axes.set(ylim=(0, 100), xlabel="severity", ylabel="refused (%)")
    return figure
