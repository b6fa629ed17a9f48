"""Combination of several p-values of one input, and its expected AUROC on wrong predictions."""

import math

import torch
from torch import Tensor

_WINDOW = 0.1  # half the window that averages the slope of a rank, in standard deviations of the reference
_MIN_EXCESS = 1e-3  # scale of the tail below the reference, in the same unit: tied lowest scores have none
_MIN_TAIL = 5  # lowest scores that give that scale: a small gap between two of them must not decide


def log_tail(score: Tensor, reference: Tensor) -> Tensor:
    """Logarithm of a p-value of each score among reference scores, as a continuous and increasing function.

    Between distinct reference scores it interpolates log(#{reference <= score} / (n + 1)) linearly, scores that are
    tied counted as one rank. Below the smallest it continues as an exponential tail whose scale is the mean excess of
    the lowest tenth, of five at least, so that inputs further out stay ordered. Only the order of the combined
    statistic is used, so this shape affects power, never validity.

    The slope of a rank between two scores that nearly agree has no bound, and above the largest it is zero. So the
    gradient is that of the function averaged over a window of two tenths of the reference's standard deviation.

    Args:
        score: (..., N).
        reference: (..., n), ascending, n >= 2.

    Returns:
        (..., N), at most 0, differentiable in the score.
    """
    dtype = torch.promote_types(score.dtype, reference.dtype)
    score, reference = score.to(dtype), reference.to(dtype)
    spread = reference.std(-1, correction=0, keepdim=True)
    spread = torch.where(spread > 0, spread, 1)  # a reference that is constant has no scale: a nat
    if not (torch.is_grad_enabled() and score.requires_grad):
        return _interpolated(score, reference, spread)
    at, reach = score.detach(), _WINDOW * spread
    above, below = (_interpolated(end, reference, spread) for end in (at + reach, at - reach))
    slope = torch.where(torch.isfinite(at), (above - below) / (2 * reach), 0)
    step = torch.where(torch.isfinite(at), score - at, 0)  # zero, with the gradient of the score
    return _interpolated(at, reference, spread) + slope * step


def _interpolated(score: Tensor, reference: Tensor, spread: Tensor) -> Tensor:
    """`log_tail` without the gradient."""
    n = reference.shape[-1]
    up_to = torch.searchsorted(reference, score.detach().contiguous(), right=True).clamp(1, n)
    low, high = reference.gather(-1, up_to - 1), reference.gather(-1, up_to.clamp_max(n - 1))
    up_to_high = torch.searchsorted(reference, high.contiguous(), right=True)
    first = reference[..., :1].contiguous()
    lowest = torch.searchsorted(reference, first, right=True)  # how many are tied there
    gap = high - low
    share = torch.where(gap > 0, (score - low) / torch.where(gap > 0, gap, 1), 0).clamp(0, 1)
    ends = torch.log(up_to.to(score)), torch.log(up_to_high.to(score))
    inside = torch.minimum(ends[0] + (ends[1] - ends[0]) * share, ends[1])  # rounding never makes it fall
    n_tail = max(min(_MIN_TAIL, n), n // 10)
    tail = reference[..., n_tail - 1, None] - reference[..., :n_tail]
    excess = torch.maximum(tail.mean(-1, keepdim=True), _MIN_EXCESS * spread)
    beyond = (first - score).clamp_min(0) / excess
    rank = torch.where(score < first, torch.log(lowest.to(score)), inside)
    return rank - math.log(n + 1) - beyond


def root_mean(log_p: Tensor, log_weights: Tensor) -> Tensor:
    """-log sum_j w_j p_j^(-1/2): a weighted mean of e-values p^(-1/2) / 2, small when any p-value is small.

    The exponent lies between the harmonic mean, which sees only the smallest, and Fisher's product, which a crowd of
    middling p-values can outvote (Vovk and Wang 2020, generalised means). Of `log_p` (N, J) and `log_weights` (J,), as
    every combination here: (N,), higher = more typical.
    """
    return -torch.logsumexp(log_weights - 0.5 * log_p, dim=-1)


def expected_auroc(score: Tensor, probability: Tensor) -> Tensor:
    """P(score_i > score_j) + P(score_i = score_j) / 2, i drawn as a positive and j as a negative.

    Input i counts as a positive with its probability and as a negative with the rest: the ratio of the expected number
    of pairs in the right order to that of all pairs. With probabilities 0 and 1 it is the area itself.

    Of scores (N,), higher = more positive, and probabilities (N,): (), float64; NaN where positives or negatives have
    no weight at all.
    """
    positive = probability.double()
    negative = 1 - positive
    # The place of the first score that is as large; `unique` would wait for the device.
    rank = torch.searchsorted(score.sort().values, score.contiguous()).clamp_max(len(score) - 1)
    of_negative = torch.zeros(len(score), dtype=torch.float64, device=score.device).index_add(0, rank, negative)
    below = of_negative.cumsum(0) - of_negative
    pairs = positive * (below + of_negative / 2)[rank]
    # An input makes no pair with itself.
    own = positive * negative
    return (pairs - own / 2).sum() / (positive.sum() * negative.sum() - own.sum())
