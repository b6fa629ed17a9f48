"""P-values: against the uniform distribution that clean images should have, and over a stream of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gmm_torch.conformal.drift import Stretch
from gmm_torch.conformal.p_values import usual_share
from trainers.report.figures.style import ERRORS, INK, MUTED, OURS, SMALL, WIDE, new_axes

BINS = 20
USUAL = 0.95  # share of the bars that the band holds
ROUNDING = 1e-5  # of a twentieth, for p-values in float32: 1/20 is at most 0.05


def p_value_histogram(
    p_values: NDArray[Any], colour: str, grid: int | None = None, size: tuple[float, float] = SMALL
) -> Figure:
    """Share of the images in each twentieth of [0, 1], in per cent; the dashed steps are the shares of valid p-values.

    P-values of few calibration images are few numbers, and a twentieth holds now more, now fewer of them. So a bar
    ends at the last that its twentieth holds, and the step above it is the share of all these numbers in the bar.
    Where images are like the calibration images, `USUAL` of the bars end in the band.

    Args:
        p_values: (N,) in [0, 1].
        colour, size: of the bars, and of the figure in inches.
        grid: see `Calibration.grid`; None for twentieths.
    """
    figure, axes = new_axes(size)
    steps = BINS if grid is None else grid  # of the axis; a bar ends at one of them
    bins = min(BINS, steps)
    ends = np.arange(bins + 1) * steps // bins
    place = np.asarray(p_values, dtype=float) * steps
    place = np.maximum(1, np.ceil(place - ROUNDING) if grid is None else np.round(place))
    counts = np.histogram(place, ends + 0.5)[0]  # a bar holds its upper end, as what is refused does
    widths = np.diff(ends)
    axes.stairs(100 * counts / max(1, len(p_values)), ends / steps, fill=True, color=colour, alpha=0.75)
    if grid is not None and len(p_values):
        of_width = {width: usual_share(int(width), grid - 1, len(p_values), USUAL) for width in np.unique(widths)}
        low, high = 100 * np.array([of_width[width] for width in widths]).T
        axes.stairs(high, ends / steps, baseline=low, fill=True, color=MUTED, alpha=0.2)
    axes.stairs(100 * widths / steps, ends / steps, baseline=None, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set(xlim=(0, 1), ylim=(0, np.clip(axes.get_ylim()[1], 10, 100)), xlabel="p-value", ylabel="images (%)")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(False, axis="x")
    return figure


def p_values_over_time(stretches: Sequence[Stretch], alarm_at: int) -> Figure:
    """Median and middle four fifths of the p-values of each stretch; the dashed line is the alarm."""
    figure, axes = new_axes(WIDE)
    edges = [each.start for each in stretches] + [stretches[-1].start + stretches[-1].n]
    axes.stairs([each.high for each in stretches], edges, baseline=[each.low for each in stretches],
                fill=True, color=OURS, alpha=0.25)  # fmt: skip
    axes.stairs([each.median for each in stretches], edges, baseline=None, color=OURS, linewidth=1.4)
    axes.stairs([each.refused for each in stretches], edges, baseline=None, color=ERRORS, linewidth=1)
    axes.axvline(alarm_at, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set(xlim=(0, edges[-1]), ylim=(0, 1), xlabel="image", ylabel="p-value; share refused")
    return figure
