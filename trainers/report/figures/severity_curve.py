"""Error rate and coverage by severity of a corruption."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainers.report.figures.style import CORRECT, ERRORS, OURS, SMALL, new_axes


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
    axes.set_ylim(0, 100)
    axes.set_xlabel("severity")
    axes.set_ylabel("%")
    return figure
