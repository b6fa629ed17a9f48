"""How the figures look: sizes, type, and a palette that colour-blind readers can tell apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

SMALL = (2.9, 2.3)  # inches; one of many panels
WIDE = (4.3, 2.8)  # inches; on its own

INK = "#1f2428"
MUTED = "#66707a"
RULE = "#dfe3e7"
OURS = "#0072b2"
SOFTMAX = "#b36b01"
CORRECT = "#8a95a0"
ERRORS = "#d55e01"
ADVERSARIAL = "#a6487e"
OOD = "#008a64"

CSS_NAMES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    OURS: "ours",
    SOFTMAX: "softmax",
    CORRECT: "correct",
    ERRORS: "errors",
    ADVERSARIAL: "adversarial",
    OOD: "ood",
}

# Okabe and Ito 2008, middle tones that show on white and on black, for points that are drawn as pixels.
CYCLE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c7fd1", "#9a8f4e")

RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gmm_torch",
    "text.parse_math": False,
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.4,
    "savefig.dpi": 125,
}


def new_axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """An empty figure of one pair of axes in the report's style, outside pyplot and its global state."""
    with rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.subplots()


def legend_below(figure: Figure, columns: int) -> None:
    """The legend, under the axes and outside the data."""
    with rc_context(RC):
        figure.legend(loc="outside lower center", ncols=columns, handlelength=1.8, columnspacing=1.4)


def source_colour(source: str) -> str:
    """One colour per kind of failure."""
    return {"errors": ERRORS, "adversarial": ADVERSARIAL, "ood": OOD}.get(source.partition("/")[0], CORRECT)


def thin(*curves: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """The same 300 evenly spaced points of curves of one length, both ends included."""
    keep = np.unique(np.linspace(0, len(curves[0]) - 1, 300).round().astype(int))
    return tuple(curve[keep] for curve in curves)


def rate_bars(rates: Sequence[float], intervals: Sequence[Sequence[float]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rates in per cent, (n,), and how far their intervals reach below and above, (2, n)."""
    middle = 100 * np.asarray(rates, dtype=float)
    low, high = 100 * np.asarray(intervals, dtype=float).reshape(-1, 2).T
    return middle, np.maximum([middle - low, high - middle], 0)


def draw_points(axes: Axes, points: NDArray[Any], colours: Any, size: float, alpha: float, limit: int = 4000) -> None:
    """Up to `limit` points as one embedded image, those beyond the axes at their edge."""
    if len(points) > limit:
        keep = np.random.default_rng(0).choice(len(points), limit, replace=False)
        points = points[keep]
        colours = colours if isinstance(colours, str) else np.asarray(colours)[keep]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    inside = np.clip(points, (left, bottom), (right, top))
    axes.scatter(inside[:, 0], inside[:, 1], s=size, c=colours, alpha=alpha, linewidths=0, rasterized=True)
