"""Curves over all thresholds, ours and the plain softmax's: ROC of a source of failure, risk against coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_roc

from gmm_torch.evaluation import metrics
from gmm_torch.evaluation.metrics import unit_ranks
from trainers.report.figures.style import CORRECT, OURS, RULE, SMALL, SOFTMAX, WIDE, legend_below, new_axes, thin

Pair = Sequence[NDArray[Any]]


def roc(ours: Pair, softmax: Pair) -> Figure:
    """Failures refused against good inputs refused, over all thresholds.

    Both are pairs, scores of the good inputs (N,) and of the failures (M,), higher = more typical, N, M >= 1.
    """
    figure, axes = new_axes(SMALL)
    axes.plot([0, 100], [0, 100], color=RULE, linewidth=1)
    axes.plot(*_curve(*softmax), color=SOFTMAX, linestyle=(0, (4, 1.5)))
    axes.plot(*_curve(*ours), color=OURS, linewidth=1.8)
    wide = (-1.5, 101.5)  # curves along the frame keep their full width
    axes.set(xlim=wide, ylim=wide, xlabel="good inputs refused (%)", ylabel="failures refused (%)")
    return figure


def _curve(good: NDArray[Any], failures: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    scores = torch.from_numpy(np.concatenate([good, failures]).astype(np.float64))
    failure = torch.cat([torch.zeros(len(good)), torch.ones(len(failures))]).long()
    fpr, tpr, _ = binary_roc(1 - unit_ranks(scores), failure)
    return thin(100 * fpr.numpy(), 100 * tpr.numpy())


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
        curve = metrics.risk_coverage(torch.from_numpy(order.astype(float)), torch.from_numpy(wrong.astype(float)))
        coverage, risk = thin(100 * curve.coverage.numpy(), 100 * curve.risk.numpy())
        axes.plot(coverage, risk, color=colour, linestyle=line, label=label)
    top = max(1.0, 160 * float(wrong.mean()))  # the first few accepted images alone may reach 100 %
    axes.set(xlim=(0, 100), ylim=(0, top), xlabel="coverage: images accepted (%)", ylabel="error rate among them (%)")
    legend_below(figure, 3)
    return figure
