"""The threshold on a score that keeps a stated share of good inputs, and the failures that pass it."""

import math

import torch
from torch import Tensor

from gmm_torch.checks import check_scores


def threshold_at_tpr(good: Tensor, tpr: float = 0.95) -> Tensor:
    """The highest threshold t such that at least `tpr` of the good inputs (N,) have a score >= t.

    It is the k-th highest score of the good inputs, with the smallest k whose float64 quotient k / N is at least `tpr`:
    one of the scores, no value between two.

    Raises:
        ValueError: if `good` is not (N,), N >= 1, holds NaN, or `tpr` is outside (0, 1].
    """
    check_scores("good", good)
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr: expected a share of good inputs in (0, 1]; got {tpr}: give 0.95 for 95 %")
    n = len(good)
    k = max(1, math.floor(tpr * n) - 1)
    while k / n < tpr:  # 0.07 * 100 > 7 in floating point, but 7 / 100 is 0.07
        k += 1
    return good.topk(k).values[-1]


def fpr_at_tpr(good: Tensor, failures: Tensor, tpr: float = 0.95) -> Tensor:
    """Share of the failures accepted at the threshold that accepts at least `tpr` of the good inputs.

    An input is accepted when its score >= `threshold_at_tpr(good, tpr)`, so failures that tie with the
    threshold count as accepted, as the good inputs there do: a constant score has the rate 1. Of scores (N,) and (M,),
    higher = more typical: float64 scalar in [0, 1], lower = better.

    Raises:
        ValueError: if a sample is empty, not 1-D or holds NaN, or `tpr` is outside (0, 1].
    """
    check_scores("failures", failures)
    return (failures >= threshold_at_tpr(good, tpr)).to(torch.float64).mean()
