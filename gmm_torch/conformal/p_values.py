"""Conformal p-values, and the rule that accepts or refuses by them.

A p-value k / (n + 1) is at most alpha if its float64 quotient is. Both quotient and alpha are rounded once, so 29/100
is at most 0.29. The rule uses the integers k and n + 1, so it holds on every device and for every dtype of the scores.
"""

from fractions import Fraction
from functools import lru_cache
from math import nextafter
from typing import TypeVar

import numpy as np
import scipy
import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_probability
from gmm_torch.devices import widest

__all__ = [
    "calibration_size",
    "comparable",
    "conformal_p_value",
    "exceeds",
    "level",
    "quotient",
    "rank",
    "realised_rate",
    "refused",
    "smoothed_count",
    "smoothed_p_value",
    "stream_uniforms",
    "threshold_index",
    "usual_share",
]

_LARGEST_SIZE = 2**31 - 1  # of n + 1: products of two such numbers are int64
_MANY = 100_000  # new inputs; more hardly change `usual_share`
Size = TypeVar("Size", int, Tensor)


def conformal_p_value(score: Tensor, sorted_calibration: Tensor) -> Tensor:
    """p = (1 + #{calibration scores <= score}) / (n + 1), never zero (Vovk, Gammerman, Shafer 2005).

    For a score exchangeable with the calibration scores, P(p <= a) <= a for every a, ties included. NaN counts as the
    least typical score.

    Args:
        score: (N,), higher = more typical.
        sorted_calibration: (n,), ascending.

    Returns:
        (N,), the type of `quotient`; without gradient.

    Examples:
        >>> calibration = torch.arange(1.0, 10.0)  # 1 to 9
        >>> conformal_p_value(torch.tensor([0.0, 2.0, 9.5]), calibration)
        tensor([0.1000, 0.3000, 1.0000], dtype=torch.float64)
    """
    return quotient(1 + rank(score, sorted_calibration), len(sorted_calibration) + 1)


def smoothed_p_value(score: Tensor, sorted_calibration: Tensor, uniform: Tensor) -> Tensor:
    """p = (#{calibration < score} + u (1 + #{calibration = score})) / (n + 1), exactly uniform even with ties.

    Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world", chapter 2: the place of a score among those
    equal to it, itself included, is drawn. For a score exchangeable with the calibration scores P(p <= a) = a for every
    a. Never above `conformal_p_value`, which has the other arguments; `uniform` (N,) are independent draws from (0, 1],
    such as `stream_uniforms`.
    """
    below, up_to = rank(score, sorted_calibration, right=False), rank(score, sorted_calibration)
    return quotient(smoothed_count(below, up_to, uniform), len(sorted_calibration) + 1)


def smoothed_count(below: Tensor, up_to: Tensor, uniform: Tensor) -> Tensor:
    """below + u (1 + equal), (N,): the place of a score among those equal to it is drawn."""
    return below + uniform.to(widest(below.device)) * (1 + up_to - below)


def rank(score: Tensor, sorted_calibration: Tensor, *, right: bool = True) -> Tensor:
    """(N,) int64, number of calibration scores <= each score, or < it with right=False; NaN is below all.

    Both are compared in the wider of their dtypes: a score just below a calibration score must not be rounded to it.
    """
    dtype = torch.promote_types(score.dtype, sorted_calibration.dtype)
    return torch.searchsorted(sorted_calibration.to(dtype), comparable(score).to(dtype).contiguous(), right=right)


def quotient(part: Tensor, whole: Tensor | int) -> Tensor:
    """part / whole, rounded once; float64, or float32 on a device without float64 (MPS)."""
    return part.to(widest(part.device)) / whole


def stream_uniforms(n: int, seed: int, start: int = 0) -> Tensor:
    """Draws start, start + 1, ..., start + n - 1 of the uniform sequence that belongs to `seed`; (n,) float64, CPU.

    They come from a counter (Philox, Salmon et al. 2011), so the draws of a stream do not depend on its batches, and a
    draw is never used twice. They lie in (0, 1].

    Examples:
        >>> bool((stream_uniforms(5, seed=0)[3:] == stream_uniforms(2, seed=0, start=3)).all())
        True
    """
    check_count("seed", seed, at_least=0)  # the generator would drop a fraction
    generator = np.random.Generator(np.random.Philox(key=seed).advance(start))
    return torch.from_numpy(1 - generator.random((n, 4))[:, 0].copy())  # one step of the counter gives four draws


def comparable(score: Tensor) -> Tensor:
    """The score without gradient, and with NaN, the least typical score, as minus infinity."""
    return torch.nan_to_num(score.detach(), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def level(alpha: float) -> tuple[int, int]:
    """(p, q), q < 2^31, with which k / (n + 1) <= alpha in float64 is the same as k q <= p (n + 1) in integers.

    p / q is the largest fraction with such a denominator that rounds to alpha or less.
    """
    return _level(alpha)


# Same effect as `torch.compiler.assume_constant_result`, which would import the whole compiler.
level._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache
def _level(alpha: float) -> tuple[int, int]:
    check_probability("alpha", alpha)
    end = (Fraction(alpha) + Fraction(nextafter(alpha, 2.0))) / 2  # numbers below round to alpha or less
    found = end.limit_denominator(_LARGEST_SIZE)
    if found > end:  # then the fraction before it in the Farey sequence
        a, b = found.numerator, found.denominator
        q = pow(a, -1, b)
        q += (_LARGEST_SIZE - q) // b * b
        return (a * q - 1) // b, q
    return found.numerator, found.denominator


def exceeds(count: Tensor, size: Tensor | int, alpha: float) -> Tensor:
    """(N,) bool, True if the p-value count / size is above alpha, so that the input is accepted.

    `count` (N,) int64 is 1 + the number of calibration scores <= the input's; `size` 1 + that of all, below 2^31.
    """
    p, q = level(alpha)
    return count * q > size * p


def refused(p_values: Tensor, alpha: float) -> Tensor:
    """(N,) bool, p <= alpha: agrees with `exceeds`, for p-values as the functions above give them."""
    # torch rounds alpha to float32 for float32 p-values, so 1/20 is at most 0.05.
    return p_values <= alpha


def calibration_size(alpha: float) -> int:
    """Smallest n with which a p-value can be <= alpha: 1 / (n + 1) <= alpha.

    Raises:
        ValueError: alpha is outside (0, 1), or below 2^-31.

    Examples:
        >>> calibration_size(0.05)
        19
    """
    p, q = level(alpha)
    if p == 0:
        raise ValueError(f"alpha: expected at least {1 / _LARGEST_SIZE:.1e}; got {alpha}: choose a larger one")
    return -(-q // p) - 1


def threshold_index(alpha: float, n: Size) -> Size:
    """k = floor(alpha (n + 1)): p > alpha is the same as score >= the k-th smallest calibration score.

    The largest k whose float64 quotient k / (n + 1) is at most alpha; 0 if all scores are accepted.
    """
    p, q = level(alpha)
    return p * (n + 1) // q


def realised_rate(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of the share of good inputs that score below the k-th smallest of n calibration scores.

    Over calibration sets this share is beta(k, n + 1 - k) distributed, smaller with ties. It lies in the interval with
    probability `confidence`, with half of the rest on either side; (0, 0) for k = 0, which refuses nothing.

    Raises:
        ValueError: not 0 <= k <= n, or a confidence outside (0, 1).
    """
    _check_rate(k, n, confidence)
    if k == 0:
        return 0.0, 0.0
    low, high = (float(scipy.special.betaincinv(k, n + 1 - k, (1 + side * confidence) / 2)) for side in (-1, 1))
    return low, high


def usual_share(k: int, n: int, n_new: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of the share of n_new good inputs below the k-th smallest of n calibration scores.

    Their number is beta-binomial(n_new; k, n + 1 - k) over calibration sets and new inputs, exactly, by Polya's urn;
    smaller with ties. The interval is wider than `realised_rate`, which leaves out the chance of the new inputs. The
    share lies in it with probability at least `confidence`, with at most half of the rest on either side.

    Raises:
        ValueError: not 0 <= k <= n, no new input, or a confidence outside (0, 1).
    """
    _check_rate(k, n, confidence)
    check_count("n_new", n_new)
    if k == 0:
        return 0.0, 0.0
    n_new = min(n_new, _MANY)
    at_most = scipy.stats.betabinom.pmf(np.arange(n_new + 1), n_new, k, n + 1 - k).cumsum()
    low, high = (int(np.searchsorted(at_most, (1 + side * confidence) / 2)) / n_new for side in (-1, 1))
    return low, high


def _check_rate(k: int, n: int, confidence: float) -> None:
    check_probability("confidence", confidence)
    if not 0 <= k <= n:
        raise ValueError(f"k: expected 0 to {n}, the number of scores; got {k}")
