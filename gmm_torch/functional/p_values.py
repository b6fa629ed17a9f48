"""Conformal p-values."""

import math

import numpy as np
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

    Examples:
        >>> calibration = torch.arange(1.0, 10.0)  # 1 to 9
        >>> conformal_p_value(torch.tensor([0.0, 2.0, 9.5]), calibration)
        tensor([0.1000, 0.3000, 1.0000])
    """
    score = comparable(score)
    rank = torch.searchsorted(sorted_calibration, score.to(sorted_calibration.dtype).contiguous(), right=True)
    dtype = torch.promote_types(score.dtype, torch.float32)
    return (1 + rank).to(dtype) / (len(sorted_calibration) + 1)


def smoothed_p_value(score: Tensor, sorted_calibration: Tensor, uniform: Tensor) -> Tensor:
    """p = (#{calibration < score} + u (1 + #{calibration = score})) / (n + 1), exactly uniform even with ties.

    The smoothed p-value of Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world", chapter 2: the place
    of a score among those equal to it, itself included, is drawn. For a score exchangeable with the calibration scores
    P(p <= a) = a for every a. Never above `conformal_p_value`; it depends on the draw as well as on the input.

    Args:
        score: (N,), higher = more typical; NaN counts as the least typical of all.
        sorted_calibration: (n,), ascending.
        uniform: (N,), independent draws from (0, 1], such as `stream_uniforms`.

    Returns:
        (N,) in (0, 1], the wider dtype of the score and the draws; without gradient.
    """
    score = comparable(score)
    dtype = torch.promote_types(score.dtype, uniform.dtype)
    values = score.to(sorted_calibration.dtype).contiguous()
    below = torch.searchsorted(sorted_calibration, values)
    equal = torch.searchsorted(sorted_calibration, values, right=True) - below
    return (below.to(dtype) + uniform.to(dtype) * (1 + equal)) / (len(sorted_calibration) + 1)


def stream_uniforms(n: int, seed: int, start: int = 0) -> Tensor:
    """Draws start, start + 1, ..., start + n - 1 of the uniform sequence that belongs to `seed`; (n,) float64, CPU.

    They come from a counter (Philox, Salmon et al. 2011), so a stream gets the same draws in whatever batches it
    arrives, and a draw is never used twice. They lie in (0, 1].

    Examples:
        >>> bool((stream_uniforms(5, seed=0)[3:] == stream_uniforms(2, seed=0, start=3)).all())
        True
    """
    generator = np.random.Generator(np.random.Philox(key=seed).advance(start))
    return torch.from_numpy(1 - generator.random((n, 4))[:, 0].copy())  # one step of the counter gives four draws


def comparable(score: Tensor) -> Tensor:
    """The score without gradient, with NaN as minus infinity: what has no order is the least typical of all."""
    return torch.nan_to_num(score.detach(), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def calibration_size(alpha: float) -> int:
    """Smallest n with which a p-value can be <= alpha: 1 / (n + 1) <= alpha.

    Examples:
        >>> calibration_size(0.05)
        19
    """
    return math.ceil(1 / alpha - 1e-9) - 1


def threshold_index(alpha: float, n: int) -> int:
    """k = floor(alpha (n + 1)): p > alpha is the same as score >= the k-th smallest calibration score.

    Everything is accepted where k = 0. The product is taken with a little slack: 0.05 * 20 must count as 1.
    """
    return min(math.floor(alpha * (n + 1) + 1e-9), n)
