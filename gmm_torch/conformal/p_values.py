"""Conformal p-values, and the one rule that accepts or refuses by them.

A p-value k / (n + 1) is at most alpha where its float64 quotient is. It is rounded once, as an alpha that is typed is,
so 29/100 counts as at most 0.29. The rule is carried out on the integers k and n + 1, and so holds on every device and
in every precision of the scores.
"""

from fractions import Fraction
from functools import lru_cache
from math import nextafter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_probability
from gmm_torch.devices import widest

LARGEST_SIZE = 2**31 - 1  # of n + 1: products of two such numbers are int64
Size = TypeVar("Size", int, Tensor)


def conformal_p_value(score: Tensor, sorted_calibration: Tensor) -> Tensor:
    """p = (1 + #{calibration scores <= score}) / (n + 1), never zero (Vovk, Gammerman, Shafer 2005).

    For a score exchangeable with the calibration scores, P(p <= a) <= a for every a, ties included. A score that is
    not a number counts as the least typical of all.

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
    """(N,) int64, how many calibration scores are <= each score, or < it with right=False; NaN is below all.

    Both are compared in the wider of their types, where each is what it was: a score just below a calibration score
    must not be rounded to it.
    """
    dtype = torch.promote_types(score.dtype, sorted_calibration.dtype)
    return torch.searchsorted(sorted_calibration.to(dtype), comparable(score).to(dtype).contiguous(), right=right)


def quotient(part: Tensor, whole: Tensor | int) -> Tensor:
    """part / whole, rounded once; float64, or float32 on a device that has no other (MPS)."""
    return part.to(widest(part.device)) / whole


def stream_uniforms(n: int, seed: int, start: int = 0) -> Tensor:
    """Draws start, start + 1, ..., start + n - 1 of the uniform sequence that belongs to `seed`; (n,) float64, CPU.

    They come from a counter (Philox, Salmon et al. 2011), so a stream gets the same draws in whatever batches it
    arrives, and a draw is never used twice. They lie in (0, 1].

    Examples:
        >>> bool((stream_uniforms(5, seed=0)[3:] == stream_uniforms(2, seed=0, start=3)).all())
        True
    """
    check_count("seed", seed, at_least=0)  # the generator would cut a fraction off
    generator = np.random.Generator(np.random.Philox(key=seed).advance(start))
    return torch.from_numpy(1 - generator.random((n, 4))[:, 0].copy())  # one step of the counter gives four draws


def comparable(score: Tensor) -> Tensor:
    """The score without gradient, with NaN as minus infinity: what has no order is the least typical of all."""
    return torch.nan_to_num(score.detach(), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def level(alpha: float) -> tuple[int, int]:
    """(p, q), q < 2^31, with which k / (n + 1) <= alpha in float64 is the same as k q <= p (n + 1) in integers.

    p / q is the largest fraction with such a denominator that rounds to alpha or less.
    """
    return _level(alpha)


# A compiler takes the result as a constant: all that `torch.compiler.assume_constant_result` does, which imports the
# whole compiler first.
level._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache
def _level(alpha: float) -> tuple[int, int]:
    check_probability("alpha", alpha)
    end = (Fraction(alpha) + Fraction(nextafter(alpha, 2.0))) / 2  # what lies below rounds to alpha or less
    found = end.limit_denominator(LARGEST_SIZE)
    if found > end:  # then the fraction before it in the Farey sequence
        a, b = found.numerator, found.denominator
        q = pow(a, -1, b)
        q += (LARGEST_SIZE - q) // b * b
        return (a * q - 1) // b, q
    return found.numerator, found.denominator


def exceeds(count: Tensor, size: Tensor | int, alpha: float) -> Tensor:
    """Whether the p-value count / size is above alpha, so the input is accepted: (N,) bool, decided in integers.

    `count` (N,) int64 is 1 + the number of calibration scores up to the input's; `size` 1 + that of all, below 2^31.
    """
    p, q = level(alpha)
    return count * q > size * p


def refused(p_values: Tensor, alpha: float) -> Tensor:
    """(N,) bool, p <= alpha: what `exceeds` says of the ranks, for p-values as the functions above give them."""
    # A float32 p-value meets an alpha that torch rounds to float32 too, so 1/20 is at most 0.05.
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
        raise ValueError(f"alpha: expected at least {1 / LARGEST_SIZE:.1e}, for a set that can be had; got {alpha}")
    return -(-q // p) - 1


def threshold_index(alpha: float, n: Size) -> Size:
    """k = floor(alpha (n + 1)): p > alpha is the same as score >= the k-th smallest calibration score.

    The largest k whose float64 quotient k / (n + 1) is at most alpha; everything is accepted where it is 0.
    """
    p, q = level(alpha)
    return p * (n + 1) // q
