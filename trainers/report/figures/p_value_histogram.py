"""P-values against the uniform distribution that clean images should have."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from trainers.report.figures.style import INK, SMALL, new_axes

BINS = 20


def p_value_histogram(p_values: NDArray[Any], colour: str) -> Figure:
    """Share of the images per twentieth of [0, 1]; the dashed line is the uniform distribution's 5 %.

    Args:
        p_values: (N,) in [0, 1].
        colour: of the bars.
    """
    figure, axes = new_axes(SMALL)
    counts, edges = np.histogram(p_values, BINS, (0, 1))
    axes.stairs(100 * counts / max(1, len(p_values)), edges, fill=True, color=colour, alpha=0.75)
    axes.axhline(100 / BINS, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(10.0, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(False, axis="x")
    axes.set_xlabel("p-value")
    axes.set_ylabel("images (%)")
    return figure
