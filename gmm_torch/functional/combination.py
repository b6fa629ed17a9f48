"""Several p-values of one input as one statistic."""

import math

import torch
from torch import Tensor


def log_tail(score: Tensor, reference: Tensor) -> Tensor:
    """Logarithm of a p-value of each score among reference scores, as a continuous and increasing function.

    Between reference scores it interpolates log((1 + rank) / (n + 1)) linearly; below the smallest it goes on as an
    exponential tail whose scale is the mean excess of the lowest tenth, so that inputs further out stay ordered and
    gradients live. Only the order of the combined statistic is used, so this shape bears on power, never on validity.

    Args:
        score: (N,).
        reference: (n,), ascending, n >= 2.

    Returns:
        (N,), at most 0, differentiable in the score.
    """
    n = len(reference)
    upper = torch.searchsorted(reference, score.detach().contiguous(), right=True).clamp(1, n - 1)
    low, high = reference[upper - 1], reference[upper]
    width = (high - low).clamp_min(torch.finfo(score.dtype).tiny)
    share = ((score - low) / width).clamp(0, 1)
    rank = torch.log(upper.to(score) + 1) * share + torch.log(upper.to(score)) * (1 - share)
    n_tail = max(2, n // 10)
    excess = (reference[n_tail - 1] - reference[:n_tail]).mean().clamp_min(torch.finfo(score.dtype).eps)
    beyond = (reference[0] - score).clamp_min(0) / excess
    return rank - math.log(n + 1) - beyond


def root_mean(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """-log sum_j w_j p_j^(-1/2): a weighted mean of e-values p^(-1/2) / 2, small when any p-value is small.

    The exponent lies between the harmonic mean, which sees only the smallest, and Fisher's product, which a crowd of
    middling p-values can outvote (Vovk and Wang 2020, generalised means).

    Args:
        log_p: (N, J).
        log_weights: (J,).

    Returns:
        (N,), higher = more typical.
    """
    return -torch.logsumexp(log_weights - 0.5 * log_p, dim=-1)


def fisher(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Weighted sum of log p-values (Fisher 1925)."""
    return (log_p * log_weights.exp()).sum(-1)


def harmonic(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Logarithm of the weighted harmonic mean (Wilson 2019), up to a constant."""
    return -torch.logsumexp(log_weights - log_p, dim=-1)


def minimum(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Smallest p_j / w_j (Bonferroni), as a logarithm."""
    return (log_p - log_weights).amin(-1)


def stouffer(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Weighted sum of normal scores (Stouffer 1949)."""
    p = log_p.exp().clamp(1e-7, 1 - 1e-7)
    result: Tensor = (torch.special.ndtri(p) * log_weights.exp()).sum(-1)
    return result


def cauchy(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """Weighted sum of Cauchy quantiles (Liu and Xie 2020)."""
    p = log_p.exp().clamp(1e-7, 1 - 1e-7)
    return -(torch.tan((0.5 - p) * torch.pi) * log_weights.exp()).sum(-1)


COMBINATIONS = {
    "root_mean": root_mean,
    "fisher": fisher,
    "harmonic": harmonic,
    "minimum": minimum,
    "stouffer": stouffer,
    "cauchy": cauchy,
}
