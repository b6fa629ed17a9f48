"""P-values against the uniform distribution that clean images should have."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from trainers.report.figures.style import INK, SMALL, new_axes

BINS = 20


def p_value_histogram(p_values: NDArray[Any], colour: str, grid: int | None = None) -> Figure:
    """Images, in per cent, for every twentieth of [0, 1]; the dashed line is the uniform distribution's 5 %.

    P-values of few calibration images are few numbers, of which twentieths would hold now more, now fewer. So a bar
    ends at the last of them that its twentieth holds, and its height is for its width.

    Args:
        p_values: (N,) in [0, 1].
        colour: of the bars.
        grid: see `Calibration.grid`; None for twentieths.
    """
    figure, axes = new_axes(SMALL)
    steps = BINS if grid is None else grid  # of the axis; a bar ends at one of them
    bins = min(BINS, steps)
    ends = np.arange(bins + 1) * steps // bins
    place = np.asarray(p_values, dtype=float) * steps
    place = np.maximum(1, np.ceil(place) if grid is None else np.round(place))
    counts = np.histogram(place, ends + 0.5)[0]  # a bar holds its upper end, as what is refused does
    heights = 100 * counts / max(1, len(p_values)) * (steps / BINS) / np.diff(ends)
    axes.stairs(heights, ends / steps, fill=True, color=colour, alpha=0.75)
    axes.axhline(100 / BINS, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(10.0, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(False, axis="x")
    axes.set_xlabel("p-value")
    axes.set_ylabel("images (%) per 0.05")
    return figure
