"""P-values over a stream of images."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from gmm_torch.conformal.what_changed import Stretch
from trainers.report.figures.style import ERRORS, INK, OURS, WIDE, new_axes


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
