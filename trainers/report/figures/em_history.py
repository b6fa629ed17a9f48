"""Log-likelihood by EM iteration."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainers.report.figures.style import OURS, WIDE, new_axes


def em_history(history: Sequence[float]) -> Figure:
    """Mean log-likelihood per image after each EM iteration, in nats."""
    figure, axes = new_axes(WIDE)
    axes.plot(range(1, len(history) + 1), list(history), color=OURS, marker="o", markersize=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.set(xlabel="EM iteration", ylabel="mean log-likelihood (nats)")
    return figure
