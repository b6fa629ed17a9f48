"""Histograms of the scores of each kind of image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from trainers.report.figures.style import INK, MUTED, WIDE, new_axes

BINS = 60
BULK = (5, 95)  # percentiles of the first group
REACH = 2, 1  # widths of its bulk that the axis goes on to the left of it at most, and to the right


class Group(NamedTuple):
    """The scores of one kind of image."""

    label: str
    scores: NDArray[Any]  # (N,)
    colour: str


def score_histograms(groups: Sequence[Group], threshold: float | None = None, alpha: float = 0.05) -> Figure:
    """One row per group, each scaled to its own highest bin.

    The bulk of the first group fills a quarter of the axis at least, however far outliers lie: those beyond the axis
    count in its end bins, and how many they are stands beside n.

    Args:
        groups: the first, and how far the others reach, set the range of the axis.
        threshold, alpha: the score below which an image is refused, None for no line, and its false alarm rate.
    """
    figure, axes = new_axes((WIDE[0], 0.36 * len(groups) + 0.85))
    edges = np.linspace(*_range(groups), BINS + 1)
    for row, group in enumerate(groups):
        base = len(groups) - 1 - row
        counts = np.histogram(np.clip(group.scores, edges[0], edges[-1]), edges)[0]
        beyond = int(((group.scores < edges[0]) | (group.scores > edges[-1])).sum())
        height = base + 0.86 * counts / max(1, counts.max())
        axes.stairs(height, edges, baseline=base, fill=True, color=group.colour, alpha=0.28)
        axes.stairs(height, edges, baseline=None, color=group.colour, linewidth=1.1)
        axes.text(
            1.015,  # right of the axes, outside the data
            base + 0.2,
            f"n = {len(group.scores)}" + (f", {beyond} beyond" if beyond else ""),
            transform=blended_transform_factory(axes.transAxes, axes.transData),
            fontsize=6.5,
            color=MUTED,
        )
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        axes.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.text(threshold, len(groups) + 0.02, f"refused at {alpha:g} ◂ ", ha="right", fontsize=7, color=INK)
    axes.set_yticks([len(groups) - 1 - row + 0.25 for row in range(len(groups))], [g.label for g in groups])
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, len(groups) + 0.1), xlabel="score (higher = more typical)")
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    return figure


def _range(groups: Sequence[Group]) -> tuple[float, float]:
    finite = [group.scores[np.isfinite(group.scores)] for group in groups]
    finite = [scores for scores in finite if len(scores)]
    if not finite:
        return 0.0, 1.0
    low, high = np.percentile(finite[0], BULK)
    width = max(high - low, 1e-6)
    left = max(min(scores.min() for scores in finite), low - REACH[0] * width)
    right = min(max(scores.max() for scores in finite), high + REACH[1] * width)
    return (float(left), float(right)) if right > left else (float(left) - 0.5, float(left) + 0.5)
