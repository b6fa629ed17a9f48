"""P-values that hold for the calibration set at hand, with confidence 1 - delta, and the sizes of such sets.

A conformal p-value is valid on average over calibration sets. Given one set of n scores without ties, the false alarm
rate of the threshold at the k-th smallest score is distributed like the k-th smallest of n uniform numbers, which is
beta(k, n + 1 - k). With ties it is at most that.

Two kinds of guarantee follow; both fail for at most a share delta of calibration sets:

- at one alpha that was fixed beforehand: `conditional_alpha`, from the beta distribution (Vovk 2012, "Conditional
  validity of inductive conformal predictors");
- at every alpha at once, so that the p-value itself can be used: a p-value i/(n + 1) becomes b_i, b_1 <= ... <=
  b_n such that P(U_(k) <= b_k for all k) >= 1 - delta (Bates, Candes, Lei, Romano, Sesia 2023, "Testing for
  outliers with conformal p-values", section 3).
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmm_torch.checks import check_choice, check_count, check_probability
from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.p_values import rank, refused
from gmm_torch.devices import widest

__all__ = [
    "BOUNDS",
    "ConditionalCalibration",
    "berk_jones_bounds",
    "conditional_alpha",
    "conditional_calibration_size",
    "dkw_bounds",
    "simes_bounds",
    "simultaneous_calibration_size",
]

Bounds = Callable[[int, float], Tensor]

_LARGEST = 2**24  # calibration set considered
_ALL_RANKS, _SOME_RANKS = 2_500, 2_000  # Berk and Jones: bound up to this many ranks one by one, else this many
_TOLERANCE = 1e-4  # of the logarithm of the level, which is on the safe side by at most twice that
_ROUNDING = 1e-9  # counted as part of the probability that a bound fails
_NEGLIGIBLE = 1e-18  # probability of a count that is left out
_DIRECT = 2**17  # products of a convolution, beyond which the Fourier transform is faster


class ConditionalCalibration(Calibration):
    """Calibration whose p-values are raised so that they hold given the calibration set.

    The guarantee, for independent inputs drawn like the calibration inputs: with probability >= 1 - delta over
    calibration sets, P(p <= a | the set) <= a for every a at once. If only one alpha matters, fixed beforehand,
    `conditional_alpha` costs less.

    Args:
        delta: share of calibration sets for which it may fail, in (0, 1).
        method: "simes", tight for small p-values; "berk_jones", tight over a wider range; "dkw", for large sets and
            large p-values.
    """

    name = "conditional"
    remedy = "a larger alpha or delta"
    bounds: Tensor

    def __init__(self, delta: float = 0.1, method: str = "berk_jones") -> None:
        super().__init__()
        check_probability("delta", delta)
        check_choice("method", method, BOUNDS)
        self.delta = delta
        self.method = method
        sets = f"for at least {100 * (1 - delta):.4g} of 100 calibration sets"
        self.promise = f"at most a share alpha of inputs like these is refused, {sets}"
        # (n + 1,) ascending; follows from n, the method and delta
        self.register_buffer("bounds", torch.empty(0), persistent=False)

    def smallest(self, alpha: float) -> int:
        """See `Calibration`."""
        return simultaneous_calibration_size(alpha, self.delta, BOUNDS[self.method])

    def p_value(
        self,
        score: Tensor,
        predictions: Tensor | None = None,
        *,
        log_weight: Tensor | None = None,
        uniform: Tensor | None = None,
    ) -> Tensor:
        """(N,) p-values of scores (N,): the bound b_i of the conformal p-value i/(n + 1).

        Raises:
            ValueError: with `uniform`, since the bounds are not for randomised p-values.
        """
        self._check_fitted()
        if uniform is not None:
            raise ValueError("uniform: expected None; bounds given the calibration set are not for randomised p-values")
        return self.bounds[rank(score, self.scores)]

    def accepts(
        self, score: Tensor, predictions: Tensor | None = None, *, log_weight: Tensor | None = None, alpha: float
    ) -> Tensor:
        """See `Calibration`; by the bound of the rank."""
        return ~refused(self.p_value(score), alpha)

    def threshold(self, alpha: float, predictions: Tensor | None = None, *, log_weight: Tensor | None = None) -> Tensor:
        """See `Calibration`."""
        self._check_fitted()
        k = self._below(alpha)
        found = torch.where(k > 0, self.scores.gather(0, (k - 1).clamp_min(0)[None])[0], -torch.inf)
        return found if predictions is None else found.expand(predictions.shape)

    def _suffices(self, alpha: float, n: int) -> bool:
        """See `Calibration`; reads one bound, while `smallest` is a search."""
        return n >= 1 and bool(refused(BOUNDS[self.method](n, self.delta)[0], alpha))

    def _n_refused(self, alpha: float) -> int:
        return int(self._below(alpha))

    def _below(self, alpha: float) -> Tensor:
        """`_n_refused` as a tensor (), which does not wait for the device."""
        check_probability("alpha", alpha)
        return refused(self.bounds[:-1], alpha).sum()

    def _index(self) -> None:
        device = self.scores.device
        bounds = BOUNDS[self.method](len(self.scores), self.delta)
        narrow = bounds.to(widest(device))
        # a bound may be rounded up, never down
        up = torch.where(narrow.double() < bounds, narrow.nextafter(torch.ones_like(narrow)), narrow)
        self.bounds = up.to(device)


def simes_bounds(n: int, delta: float, k: int | None = None) -> Tensor:
    """b_(n+1-i) = 1 - delta^(1/k) (i ... (i-k+1) / (n ... (n-k+1)))^(1/k), by the generalised Simes inequality.

    Bates et al. 2023, after Sarkar 2008. Tight for small p-values; 1 for p-values above about 1 - k/n.

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

    Massart 1990, with the constant 1, which needs delta <= 1/2; a larger delta is treated as 1/2. Wide for small
    p-values: nothing can be refused at alpha <= sqrt(log(1/delta) / (2n)). Arguments and result as for `simes_bounds`.
    """
    _check(n, delta)
    return _table(np.arange(n) / n + math.sqrt(math.log(1 / min(delta, 0.5)) / (2 * n)))


def berk_jones_bounds(n: int, delta: float) -> Tensor:
    """b_i = quantile of beta(i, n + 1 - i) for i <= n / 2, at the level at which all hold with 1 - delta exactly.

    Berk and Jones 1979. Larger p-values become 1. With more than 5,000 inputs neighbouring p-values share the bound of
    the largest, so that only about 2,000 bounds are computed: these are exact too, and a little wider. Arguments and
    result as for `simes_bounds`.
    """
    _check(n, delta)
    ranks = _ranks(n)
    bounds = scipy.special.betainccinv(ranks, n + 1 - ranks, _berk_jones_level(n, delta))
    first_above = np.searchsorted(ranks, np.arange(1, ranks[-1] + 1))
    return _table(np.concatenate([bounds[first_above], np.ones(n - ranks[-1])]))


def _ranks(n: int) -> NDArray[np.int64]:
    """Bounded ranks: all up to n / 2, or some whose distances are a fraction of the spread of such a count."""
    bounded = max(1, round(0.5 * n))
    if bounded <= _ALL_RANKS:
        return np.arange(1, bounded + 1)
    root = np.linspace(1, math.sqrt(bounded), _SOME_RANKS)
    return np.unique(np.append(np.floor(root**2).astype(np.int64), bounded))


@lru_cache(maxsize=1024)
def _berk_jones_level(n: int, delta: float) -> float:
    ranks = _ranks(n)

    def excess(log_level: float) -> float:
        bounds = scipy.special.betainccinv(ranks, n + 1 - ranks, math.exp(log_level))
        return math.log((1 - _all_below(bounds, ranks, n) + _ROUNDING) / delta)

    if len(ranks) == 1:
        return delta
    # Bonferroni's level is low enough, delta too high
    low, high = math.log(delta / len(ranks)), math.log(delta)
    if excess(low) >= 0:
        return math.exp(low)
    level = scipy.optimize.brentq(excess, low, high, xtol=_TOLERANCE) - _TOLERANCE
    while excess(level) > 0:
        level -= _TOLERANCE
    return math.exp(level)


def _all_below(bounds: NDArray[np.float64], ranks: NDArray[np.int64], n: int) -> float:
    """P(U_(k) <= b_k for every given k) for the order statistics U_(1) <= ... <= U_(n) of n uniform numbers.

    Equivalent to N(b_k) >= k, where N(b) counts the numbers up to b. N is a Poisson process of rate n given that
    N(1) = n. The distribution of its counts is carried from bound to bound, and counts that are too low are dropped
    (Moscovich and Nadler 2017, "Fast calculation of boundary crossing probabilities for Poisson processes"). All terms
    are positive, so nothing cancels: the error is 1e-12 for a thousand numbers, 1e-9 for a million. Bounds (m,) in
    (0, 1) and ranks k (m,) ascend.
    """
    steps = n * np.diff(bounds, prepend=0.0)
    counts = np.ones(1)  # P(N = first + i and every bound so far holds)
    first = 0
    for k, mean in zip(ranks.tolist(), steps.tolist(), strict=True):
        counts = _convolve(counts, _poisson(mean))[max(0, k - first) : n + 1 - first]
        first = max(first, k)
        kept = np.flatnonzero(counts > _NEGLIGIBLE)
        if not len(kept):
            return 0.0
        counts, first = counts[kept[0] : kept[-1] + 1], first + int(kept[0])
    rest = n - first - np.arange(len(counts))  # above the last bound
    log_rest = _log_poisson(rest, n * (1 - bounds[-1])) - _log_poisson(np.array([n]), float(n))
    return min(1.0, float(counts @ np.exp(log_rest)))


def _poisson(mean: float) -> NDArray[np.float64]:
    """Probabilities of the counts 0, 1, ... up to a negligible one."""
    reach = int(mean + 12 * np.sqrt(mean) + 40)
    return np.exp(_log_poisson(np.arange(reach + 1), mean))


def _log_poisson(count: NDArray[np.int64], mean: float) -> NDArray[np.float64]:
    result: NDArray[np.float64] = scipy.special.xlogy(count, mean) - mean - scipy.special.gammaln(count + 1)
    return result


def _convolve(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolution of two sequences without negative numbers."""
    if len(a) * len(b) <= _DIRECT:
        return np.convolve(a, b)
    result: NDArray[np.float64] = np.maximum(scipy.signal.fftconvolve(a, b), 0.0)
    return result


def conditional_alpha(alpha: float, n: int, delta: float) -> float:
    """The marginal level at which the false alarm rate is <= alpha for a share 1 - delta of calibration sets.

    It is (k + 1/2) / (n + 1) with the largest k for which P(beta(k, n + 1 - k) <= alpha) >= 1 - delta; the half keeps
    it away from the attainable p-values k / (n + 1), where rounding would decide.

    Raises:
        ValueError: too few calibration inputs to refuse anything; the message says how many are needed.
    """
    _check(n, delta)
    check_probability("alpha", alpha)
    k = int(scipy.stats.binom.ppf(delta, n, alpha))  # the largest k with P(binomial(n, alpha) < k) < delta
    if k < 1:
        raise ValueError(
            f"calibration set: alpha={alpha:g} with confidence {1 - delta:g} needs at least "
            f"{conditional_calibration_size(alpha, delta)} inputs; got {n}: give more, or choose a larger alpha or "
            "delta"
        )
    return (k + 0.5) / (n + 1)


def conditional_calibration_size(alpha: float, delta: float, level: float | None = None) -> int:
    """Number of calibration inputs that keeps the false alarm rate <= alpha for a share 1 - delta of calibration sets.

    Args:
        alpha: the false alarm rate not to exceed, in (0, 1).
        delta: share of calibration sets for which it may be exceeded, in (0, 1).
        level: lowest level k / (n + 1) to test at, in (0, alpha), see `conditional_alpha`; a higher one needs more
            inputs. None for any at which something can be refused, which gives n >= log(delta) / log(1 - alpha).

    Returns:
        The smallest n. A few slightly larger n may miss the level by rounding of k.
    """
    check_probability("alpha", alpha)
    check_probability("delta", delta)
    if level is not None and not 0 < level < alpha:
        raise ValueError(f"level: expected a number in (0, alpha={alpha:g}); got {level}: no other set is large enough")
    first, size = 1, 1024
    while True:
        k = np.arange(first, first + size)
        # from this n on, n draws give k or more below alpha with probability >= 1 - delta
        n = k + scipy.stats.nbinom.ppf(1 - delta, k, alpha)
        enough = k >= (level or 0.0) * (n + 1)
        if enough.any():
            return int(n[enough.argmax()])
        first, size = first + size, 2 * size


def simultaneous_calibration_size(alpha: float, delta: float, bounds: Bounds = berk_jones_bounds) -> int:
    """Smallest number of calibration inputs with which `ConditionalCalibration` can refuse at alpha, so b_1 <= alpha.

    Args:
        alpha: the lowest false alarm rate to test at, in (0, 1).
        delta: share of calibration sets for which the p-values may fail, in (0, 1).
        bounds: function from n and delta to the table of bounds, such as `simes_bounds`; b_1 must fall as n rises.

    Raises:
        ValueError: more than 2^24 inputs are needed.
    """
    check_probability("alpha", alpha)
    low, high, least = 0, 1, float(bounds(1, delta)[0])  # b_1 of `high`; that of `low` is above alpha
    while least > alpha:
        if high == _LARGEST:
            raise ValueError(
                f"calibration set: alpha={alpha:g} with confidence {1 - delta:g} needs more than {_LARGEST} inputs: "
                "choose a larger alpha or delta"
            )
        # the bound falls about as 1 / n
        low, high = high, min(_LARGEST, max(high + 1, math.ceil(high * least / alpha)))
        least = float(bounds(high, delta)[0])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if float(bounds(middle, delta)[0]) <= alpha else (middle, high)
    return high


BOUNDS: dict[str, Bounds] = {"simes": simes_bounds, "dkw": dkw_bounds, "berk_jones": berk_jones_bounds}


def _table(bounds: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.append(np.clip(bounds, 0.0, 1.0), 1.0))


def _check(n: int, delta: float) -> None:
    check_count("n", n)
    check_probability("delta", delta)
