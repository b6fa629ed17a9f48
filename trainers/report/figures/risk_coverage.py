"""Risk against coverage: the error rate among the accepted."""

from typing import Any

import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gmm_torch.testing import risk_coverage as functional
from trainers.report.figures.style import CORRECT, OURS, SOFTMAX, WIDE, legend_below, new_axes, thin


def risk_coverage(scores: NDArray[Any], softmax: NDArray[Any], wrong: NDArray[Any]) -> Figure:
    """Error rate among the accepted against the share accepted: ours, the plain softmax's, the best possible.

    All three are (N,), of the clean test images; higher scores and softmax probabilities are accepted earlier.
    """
    figure, axes = new_axes(WIDE)
    best = -wrong.astype(float)
    for label, order, colour, line in (
        ("best possible", best, CORRECT, (0, (1, 1.5))),
        ("softmax", softmax, SOFTMAX, (0, (4, 1.5))),
        ("ours", scores, OURS, "solid"),
    ):
        curve = functional.risk_coverage(torch.from_numpy(order.astype(float)), torch.from_numpy(wrong.astype(float)))
        coverage, risk = thin(100 * curve.coverage.numpy(), 100 * curve.risk.numpy())
        axes.plot(coverage, risk, color=colour, linestyle=line, label=label)
    top = max(1.0, 160 * float(wrong.mean()))  # the first few accepted images alone may reach 100 %
    axes.set(xlim=(0, 100), ylim=(0, top), xlabel="coverage: images accepted (%)", ylabel="error rate among them (%)")
    legend_below(figure, 3)
    return figure
