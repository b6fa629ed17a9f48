"""Guarantees for the calibration set at hand, with confidence 1 - delta, and how large a set they take.

A conformal p-value is valid on average over calibration sets. Given one set of n scores, and without ties, the false
alarm rate of the threshold at the k-th smallest score is a draw of the k-th smallest of n uniform numbers, which is
beta(k, n + 1 - k). With ties it is at most that.

Two kinds of guarantee follow, both of which fail for at most a share delta of calibration sets:

- at one alpha that was fixed beforehand: `conditional_alpha`, from the beta distribution (Vovk 2012, "Conditional
  validity of inductive conformal predictors");
- at every alpha at once, so that the p-value itself may be used: a p-value i/(n + 1) becomes b_i, b_1 <= ... <=
  b_n such that P(U_(k) <= b_k for all k) >= 1 - delta (Bates, Candes, Lei, Romano, Sesia 2023, "Testing for
  outliers with conformal p-values", section 3).
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy
import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_probability
from gmm_torch.conformal.order_statistics import all_below
from gmm_torch.conformal.p_values import threshold_index

LARGEST = 2**24  # calibration set that is looked at
MANY = 100_000  # new inputs, more of which hardly move the share of them that is usual
ALL_RANKS, SOME_RANKS = 2_500, 2_000  # bounded by Berk and Jones: so many one by one, else so many
GUESSES = 4  # of a size, before it is searched for
TOLERANCE = 1e-4  # of the logarithm of the level, which is on the safe side of what it should be by at most twice that
ROUNDING = 1e-9  # of the probability that a bound fails, counted as if it were a failure


def simes_bounds(n: int, delta: float, k: int | None = None) -> Tensor:
    """b_(n+1-i) = 1 - delta^(1/k) (i ... (i-k+1) / (n ... (n-k+1)))^(1/k), by the generalised Simes inequality.

    Bates et al. 2023, after Sarkar 2008. Tight for small p-values; says nothing (1) for those above about 1 - k/n.

    Args:
        n: size of the calibration set.
        delta: share of calibration sets for which the bounds may fail, in (0, 1).
        k: order of the inequality; n // 2 by default, as in the paper.

    Returns:
        (n + 1,) float64, ascending, the last one 1.
    """
    _check(n, delta)
    k = max(1, n // 2) if k is None else k
    if not 1 <= k <= n:
        raise ValueError(f"k: expected a number from 1 to n={n}; got {k}")
    i = np.arange(n, 0, -1)  # b_1 belongs to i = n
    # the falling factorial i ... (i-k+1) is i! / (i-k)!, and zero for i < k
    top = np.where(i >= k, scipy.special.gammaln(i + 1) - scipy.special.gammaln(np.maximum(i - k, 0) + 1), -np.inf)
    whole = scipy.special.gammaln(n + 1) - scipy.special.gammaln(n - k + 1)
    return _table(-np.expm1((math.log(delta) + top - whole) / k))


def dkw_bounds(n: int, delta: float) -> Tensor:
    """b_i = (i - 1)/n + sqrt(log(1/delta) / (2n)), by the one-sided Dvoretzky-Kiefer-Wolfowitz inequality.

    Massart 1990, with the constant 1, which needs delta <= 1/2 (a larger one is served by 1/2). Wide for small
    p-values: nothing can be refused at alpha <= sqrt(log(1/delta) / (2n)).

    Args, Returns: as for `simes_bounds`.
    """
    _check(n, delta)
    return _table(np.arange(n) / n + math.sqrt(math.log(1 / min(delta, 0.5)) / (2 * n)))


def berk_jones_bounds(n: int, delta: float, share: float = 0.5) -> Tensor:
    """b_i = quantile of beta(i, n + 1 - i) at one level for all i, the level at which all hold with 1 - delta exactly.

    Berk and Jones 1979; for the probability see `order_statistics.all_below`. With more than 5,000 inputs neighbouring
    p-values share a bound, that of the largest, so that about 2,000 have to be looked at: these bounds are exact too,
    and a little wider.

    Args, Returns: as for `simes_bounds`.
        share: of the p-values, from below, that are bounded at all; the fewer, the tighter. The others get 1.
    """
    _check(n, delta)
    check_probability("share", share)
    ranks = _ranks(max(1, round(share * n)))
    bounds = scipy.special.betainccinv(ranks, n + 1 - ranks, _berk_jones_level(n, delta, share))
    first_above = np.searchsorted(ranks, np.arange(1, ranks[-1] + 1))
    return _table(np.concatenate([bounds[first_above], np.ones(n - ranks[-1])]))


def _ranks(bounded: int) -> np.ndarray:
    """Up to `bounded`, all of them or some: neighbours no further apart than a share of the spread of such a count."""
    if bounded <= ALL_RANKS:
        return np.arange(1, bounded + 1)
    root = np.linspace(1, math.sqrt(bounded), SOME_RANKS)
    return np.unique(np.append(np.floor(root**2).astype(np.int64), bounded))


@lru_cache(maxsize=1024)
def _berk_jones_level(n: int, delta: float, share: float) -> float:
    ranks = _ranks(max(1, round(share * n)))

    def excess(log_level: float) -> float:
        bounds = scipy.special.betainccinv(ranks, n + 1 - ranks, math.exp(log_level))
        return math.log((1 - all_below(bounds, ranks, n) + ROUNDING) / delta)

    if len(ranks) == 1:
        return delta
    # Bonferroni's level is low enough, delta too high
    low, high = math.log(delta / len(ranks)), math.log(delta)
    if excess(low) >= 0:
        return math.exp(low)
    level = scipy.optimize.brentq(excess, low, high, xtol=TOLERANCE) - TOLERANCE
    while excess(level) > 0:
        level -= TOLERANCE
    return math.exp(level)


def conditional_alpha(alpha: float, n: int, delta: float) -> float:
    """The marginal level at which the false alarm rate is <= alpha for a share 1 - delta of calibration sets.

    It is (k + 1/2) / (n + 1) with the largest k for which P(beta(k, n + 1 - k) <= alpha) >= 1 - delta; the half keeps
    it away from the attainable p-values k / (n + 1), where rounding would decide.

    Raises:
        ValueError: too few calibration inputs to refuse anything; the message says how many it takes.
    """
    check_count("n", n)
    check_probability("alpha", alpha)
    check_probability("delta", delta)
    k = int(scipy.stats.binom.ppf(delta, n, alpha))  # the largest k with P(binomial(n, alpha) < k) < delta
    if k < 1:
        raise ValueError(
            f"calibration set: alpha={alpha:g} with confidence {1 - delta:g} needs at least "
            f"{conditional_calibration_size(alpha, delta)} inputs; got {n}: give more, or choose a larger alpha or "
            "delta"
        )
    return (k + 0.5) / (n + 1)


def conditional_calibration_size(alpha: float, delta: float, level: float | None = None) -> int:
    """How many calibration inputs keep the false alarm rate <= alpha for a share 1 - delta of calibration sets?

    Args:
        alpha: the false alarm rate not to exceed, in (0, 1).
        delta: share of calibration sets for which it may be exceeded, in (0, 1).
        level: lowest level k / (n + 1) to test at, in (0, alpha), see `conditional_alpha`; the higher, the more inputs.
            None for any at which something can be refused, which gives n >= log(delta) / log(1 - alpha).

    Returns:
        The smallest n. Just above it a few n may miss the level by rounding of k.
    """
    check_probability("alpha", alpha)
    check_probability("delta", delta)
    if level is not None and not 0 < level < alpha:
        raise ValueError(f"level: expected a number in (0, alpha={alpha:g}); got {level}: no set is large enough else")
    first, size = 1, 1024
    while True:
        k = np.arange(first, first + size)
        # n draws give k or more below alpha with probability >= 1 - delta from this n on
        n = k + scipy.stats.nbinom.ppf(1 - delta, k, alpha)
        enough = k >= (level or 0.0) * (n + 1)
        if enough.any():
            return int(n[enough.argmax()])
        first, size = first + size, 2 * size


BOUNDS: dict[str, Callable[[int, float], Tensor]] = {
    "simes": simes_bounds,
    "dkw": dkw_bounds,
    "berk_jones": berk_jones_bounds,
}


def simultaneous_calibration_size(
    alpha: float, delta: float, bounds: Callable[[int, float], Tensor] = berk_jones_bounds
) -> int:
    """How many calibration inputs let an input be refused at alpha by `ConditionalCalibration`, so b_1 <= alpha?

    Args:
        alpha: the lowest false alarm rate to test at, in (0, 1).
        delta: share of calibration sets for which the p-values may fail, in (0, 1).
        bounds: from n and delta to the table of bounds, such as `simes_bounds`; b_1 must fall as n rises.

    Raises:
        ValueError: not even 2^24 inputs suffice.
    """
    check_probability("alpha", alpha)
    check_probability("delta", delta)

    def least(n: int) -> float:
        return float(bounds(n, delta)[0])

    guess = 1
    for _ in range(GUESSES):  # the bound falls about as 1/n
        guess = min(LARGEST, max(1, math.ceil(guess * least(guess) / alpha)))
    low, high, step = 0, guess, 1
    while least(high) > alpha:
        if high == LARGEST:
            raise ValueError(
                f"calibration set: alpha={alpha:g} with confidence {1 - delta:g} takes more than {LARGEST} inputs: "
                "choose a larger alpha or delta"
            )
        low, high, step = high, min(LARGEST, high + step), 2 * step
    if low == 0:  # the guess suffices, and a smaller one may
        step = 1
        while high > step and least(high - step) <= alpha:
            high, step = high - step, 2 * step
        low = max(0, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if least(middle) <= alpha else (middle, high)
    return high


def realised_rate(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of the share of good inputs that score below the k-th smallest of n calibration scores.

    Over calibration sets that share is beta(k, n + 1 - k), with ties less. It lies in the interval with probability
    `confidence`, half of the rest on either side; (0, 0) where k = 0, so that nothing is refused.

    Raises:
        ValueError: not 0 <= k <= n, or a confidence outside (0, 1).
    """
    check_probability("confidence", confidence)
    if not 0 <= k <= n:
        raise ValueError(f"k: expected 0 to {n}, the number of scores; got {k}")
    if k == 0:
        return 0.0, 0.0
    low, high = (float(scipy.special.betaincinv(k, n + 1 - k, (1 + side * confidence) / 2)) for side in (-1, 1))
    return low, high


def usual_share(k: int, n: int, n_new: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of the share of n_new good inputs below the k-th smallest of n calibration scores.

    Their number is beta-binomial(n_new; k, n + 1 - k) over calibration sets and new inputs, exactly, by Polya's urn;
    with ties it is less. So it is wider than `realised_rate`, where chance has the calibration set alone. The share
    lies in the interval with probability at least `confidence`, at most half of the rest on either side.

    Raises:
        ValueError: not 0 <= k <= n, no new input, or a confidence outside (0, 1).
    """
    check_probability("confidence", confidence)
    check_count("n_new", n_new)
    if not 0 <= k <= n:
        raise ValueError(f"k: expected 0 to {n}, the number of scores; got {k}")
    if k == 0:
        return 0.0, 0.0
    n_new = min(n_new, MANY)
    at_most = scipy.stats.betabinom.pmf(np.arange(n_new + 1), n_new, k, n + 1 - k).cumsum()
    low, high = (int(np.searchsorted(at_most, (1 + side * confidence) / 2)) / n_new for side in (-1, 1))
    return low, high


def false_alarm_interval(alpha: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high), between which the false alarm rate at the marginal alpha lies for a share `confidence` of sets."""
    check_count("n", n)
    check_probability("alpha", alpha)
    return realised_rate(threshold_index(alpha, n), n, confidence)


def _table(bounds: np.ndarray) -> Tensor:
    return torch.from_numpy(np.append(np.clip(bounds, 0.0, 1.0), 1.0))


def _check(n: int, delta: float) -> None:
    check_count("n", n)
    check_probability("delta", delta)
