"""Conformal p-values."""

import math

import torch
from torch import Tensor


def conformal_p_value(score: Tensor, sorted_calibration: Tensor) -> Tensor:
    """p = (1 + #{calibration scores <= score}) / (n + 1), never zero (Vovk, Gammerman, Shafer 2005).

    For a score exchangeable with the calibration scores, P(p <= a) <= a for every a, ties included. A score that is
    not a number counts as the least typical of all.

    Args:
        score: (N,), higher = more typical.
        sorted_calibration: (n,), ascending.

    Returns:
        (N,), the dtype of the score, at least float32; without gradient.
    """
    score = torch.nan_to_num(score.detach(), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    rank = torch.searchsorted(sorted_calibration, score.to(sorted_calibration.dtype).contiguous(), right=True)
    dtype = torch.promote_types(score.dtype, torch.float32)
    return (1 + rank).to(dtype) / (len(sorted_calibration) + 1)


def calibration_size(alpha: float) -> int:
    """Smallest n with which a p-value can be <= alpha: 1 / (n + 1) <= alpha."""
    return math.ceil(1 / alpha - 1e-9) - 1


def threshold_index(alpha: float, n: int) -> int:
    """k = floor(alpha (n + 1)): p > alpha is the same as score >= the k-th smallest calibration score.

    Everything is accepted where k = 0. The product is taken with a little slack: 0.05 * 20 must count as 1.
    """
    return min(math.floor(alpha * (n + 1) + 1e-9), n)
