"""How far the realised rate of false alarms may lie from the one that was asked for."""

import scipy

from gmm_torch.functional.checks import check_probability


def realised_rate(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of the share of good inputs that score below the k-th smallest of n calibration scores.

    Over calibration sets that share has a beta distribution with k and n + 1 - k (Vovk 2012, "Conditional validity of
    inductive conformal predictors"; ties only make it smaller). It lies in the interval with probability `confidence`,
    half of the rest on either side; (0, 0) where k = 0, so that nothing is refused.

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
