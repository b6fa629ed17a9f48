"""How many good inputs of a batch have small p-values: bounds that hold at every p-value at once, exactly.

Test and calibration scores of good inputs, in one row by size, stand in each order with the same probability. Let V(k)
be the number of good test inputs whose p-value is at most k/(n + 1), those that stand before the k-th calibration
score. So the joint law of V(1), ..., V(n) is that of a random lattice path, whatever the scores are; it has the
dependence of p-values that share a calibration set in it (Bates, Candes, Lei, Romano, Sesia 2023; Gazin, Blanchard,
Roquain 2024, "Transductive conformal inference with adaptive scores"). Ties can only lower V.
"""

from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

from gmm_torch.conformal.order_statistics import NEGLIGIBLE, convolve

STEP = 1.25  # from one rank that is bounded to the next, beyond the first ones, which are all bounded
HALVINGS = 12  # of the search for a level
SIZES = 0.8  # of numbers of good inputs: each so many times the next

Ranks = NDArray[np.int64]


def all_within(bounds: Ranks, ranks: Ranks, n: int, m: int) -> float:
    """P(V(k) <= c_k for every k given), of m good test inputs and n calibration inputs.

    Row by row, test inputs are independent trials of probability m/(n + m), given that there are m; the distribution of
    V is carried from bound to bound, and what exceeds one is dropped. All terms are positive, so nothing cancels.
    Bounds c_k (K,) and ranks k (K,), from 1 to n, ascend.
    """
    return _carried(bounds, _gaps(ranks, n, m), _last(ranks, n, m))


def envelope(n: int, m: int, delta: float) -> tuple[Ranks, Ranks]:
    """Ranks k (K,) and bounds c (K,) with P(V(k) <= c_k for every k) >= 1 - delta.

    Each bound is exceeded with about the same probability, so none is wide for the sake of others; all ranks up to 16
    are bounded, then one in each step of a quarter: V between two is bounded by the next.
    """
    ranks, tails = _tails(n, m)
    gaps, last = _gaps(ranks, n, m), _last(ranks, n, m)
    low, high = np.log(delta / len(ranks)), np.log(delta)  # at the lower end the bounds hold by their sum
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        bounds = _quantiles(tails, float(np.exp(middle)))
        low, high = (middle, high) if _carried(bounds, gaps, last) >= 1 - delta else (low, middle)
    return ranks, _quantiles(tails, float(np.exp(low)))


@lru_cache(maxsize=16)
def envelopes(n: int, m: int, delta: float) -> tuple[Ranks, tuple[tuple[int, Ranks], ...]]:
    """Ranks, and (size, bounds) for some sizes ascending to m, each valid for as many good inputs or fewer.

    The bounds of a larger size are nowhere below those of a smaller one.
    """
    sizes = [m]
    while sizes[-1] > 1:
        sizes.append(int(SIZES * sizes[-1]) or 1)
    found: list[tuple[int, Ranks]] = []
    for size in sorted(sizes):
        ranks, bounds = envelope(n, size, delta)
        found.append((size, np.maximum(bounds, found[-1][1]) if found else bounds))
    return ranks, tuple(found)


def _carried(bounds: Ranks, gaps: list[NDArray[np.float64]], last: NDArray[np.float64]) -> float:
    counts, first = np.ones(1), 0  # P(V = first + i and every bound so far holds)
    for bound, gap in zip(bounds.tolist(), gaps, strict=True):
        counts = convolve(counts, gap)[: max(0, bound + 1 - first)]
        kept = np.flatnonzero(counts > NEGLIGIBLE)
        if not len(kept):
            return 0.0
        counts, first = counts[kept[0] : kept[-1] + 1], first + int(kept[0])
    counts = counts[: max(0, len(last) - first)]
    return min(1.0, float(counts @ last[first : first + len(counts)]))


def _gaps(ranks: Ranks, n: int, m: int) -> list[NDArray[np.float64]]:
    """Probabilities of 0, 1, ... test inputs between two ranks, up to a negligible one."""
    share, found = m / (n + m), []
    for step in np.diff(ranks, prepend=0).tolist():
        mean = step * m / n
        reach = int(mean + 12 * np.sqrt(mean * (1 + m / n)) + 40 * (1 + m / n))
        v = np.arange(min(m, reach) + 1)
        ways = scipy.special.gammaln(v + step) - scipy.special.gammaln(v + 1) - scipy.special.gammaln(step)
        found.append(np.exp(ways + v * np.log(share) + step * np.log1p(-share)))
    return found


def _last(ranks: Ranks, n: int, m: int) -> NDArray[np.float64]:
    """P(there are m test inputs in all | v up to the last rank) / P(there are m), v = 0 ... m."""
    share, rest = m / (n + m), np.arange(m, -1, -1)
    log_rest = scipy.stats.binom.logpmf(rest, n - ranks[-1] + rest, share) - scipy.stats.binom.logpmf(m, n + m, share)
    result: NDArray[np.float64] = np.exp(log_rest)
    return result


def _quantiles(tails: NDArray[np.float64], level: float) -> Ranks:
    """(K,), the least c with P(V(k) > c) <= level."""
    return np.maximum.accumulate((tails > level).sum(1))


def _tails(n: int, m: int) -> tuple[Ranks, NDArray[np.float64]]:
    """Ranks (K,), and P(V(k) > v) for v = 0 ... m, (K, m + 1): V(k) is beta-binomial(m; k, n + 1 - k)."""
    steps = np.concatenate([np.arange(1, 17), 16 * STEP ** np.arange(1, 200)])
    ranks = np.unique(np.append(steps[steps < n], n).astype(np.int64))
    v, k, betaln = np.arange(m + 1), ranks[:, None], scipy.special.betaln
    log_ways = -betaln(v + 1, m - v + 1) - np.log(m + 1)
    log_pmf = log_ways + betaln(v + k, m - v + n + 1 - k) - betaln(k, n + 1 - k)
    from_v = np.exp(log_pmf)[:, ::-1].cumsum(1)[:, ::-1]  # P(V >= v)
    return ranks, np.concatenate([from_v[:, 1:], np.zeros((len(ranks), 1))], 1)
