"""ROC curves of one source of failure, ours and the plain softmax's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_roc

from gmm_torch.metrics.ranks import unit_ranks
from trainers.report.figures.style import OURS, RULE, SMALL, SOFTMAX, new_axes, thin

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
