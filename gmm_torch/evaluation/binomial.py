"""Exact confidence bounds of a rate, from a count."""

import scipy

from gmm_torch.checks import check_probability


def upper_bound(n_events: int, n: int, confidence: float) -> float:
    """The rate r at which a binomial(n, r) is <= n_events with probability 1 - confidence; 1 where n = 0.

    Clopper and Pearson 1934, one-sided: whatever the rate, it lies above this with probability <= 1 - confidence.
    The same number is the bound of Lemma 3.1 in Geifman and El-Yaniv 2017.

    Raises:
        ValueError: not 0 <= n_events <= n, or a confidence outside (0, 1).
    """
    _check(n_events, n, confidence)
    return 1.0 if n_events == n else float(scipy.special.betaincinv(n_events + 1, n - n_events, confidence))


def interval(n_events: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval (low, high) of the rate; (0, 1) where n = 0.

    Raises:
        ValueError: not 0 <= n_events <= n, or a confidence outside (0, 1).
    """
    _check(n_events, n, confidence)
    one_sided = (1 + confidence) / 2
    # from the count itself: 1 less the bound of the others would lose the digits of a small rate
    low = float(scipy.special.betaincinv(n_events, n - n_events + 1, 1 - one_sided)) if n_events else 0.0
    return low, upper_bound(n_events, n, one_sided)


def _check(n_events: int, n: int, confidence: float) -> None:
    if not 0 <= n_events <= n:
        raise ValueError(f"binomial count: expected 0 <= events <= n; got {n_events} of {n}")
    check_probability("confidence", confidence)
