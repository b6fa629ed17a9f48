"""Bounds of a rate by betting: exact in any finite sample, with weights, and at any time.

Whoever believes that a rate is at least r bets against it: while it is, his wealth is a supermartingale, so it ever
reaches 1 / (1 - confidence) with probability at most 1 - confidence (Ville). What would have made him rich is not
believed any more (Waudby-Smith, Ramdas 2023, "Estimating means of bounded random variables by betting"). The wealth
here is the mean over a grid of bets that are fixed beforehand, so the order of the numbers does not matter.
"""

import math
from collections.abc import Callable

import numpy as np
import scipy
import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_probability

BETS = tuple(2.0 ** (-j / 2) for j in range(14))  # shares of the largest bet that can't lose more than all
HALVINGS = 25


def log_wealth_below(errors: Tensor, weights: Tensor, rate: float) -> float:
    """Logarithm of the wealth of bets against "E[w error] >= rate * E[w]"; nondecreasing in the rate, in [0, 1).

    The mean over the bets c of prod_i (1 + c w_i (rate - error_i) / (1 - rate)).
    """
    bets = torch.tensor(BETS, dtype=torch.float64)[:, None] / (1 - rate)
    gains = bets * weights.detach().cpu().double() * (rate - errors.detach().cpu().double())
    return float(gains.clamp_min(-1).log1p().sum(1).logsumexp(0)) - math.log(len(BETS))  # -1 but for rounding


def weighted_upper_bound(errors: Tensor, weights: Tensor, confidence: float) -> float:
    """The rate that E[w error] / E[w] does not exceed, with that confidence; 1 where nothing says so.

    Args:
        errors, weights: (n,) bool, and (n,) in [0, 1]; their pairs are independent draws from one source.

    Raises:
        ValueError: shapes, weights outside [0, 1], a confidence outside (0, 1).
    """
    check_probability("confidence", confidence)
    if errors.shape != weights.shape or errors.dtype != torch.bool or errors.dim() != 1:
        raise ValueError(
            f"errors and weights: expected one bool and one number each, shape (n,); got {tuple(errors.shape)} of "
            f"{errors.dtype} and {tuple(weights.shape)}"
        )
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError("weights: expected numbers in [0, 1]; divide them by the largest that there can be")
    return _smallest(lambda rate: log_wealth_below(errors, weights, rate), confidence)


def rate_interval(n_wrong: int, n_right: int, confidence: float) -> tuple[float, float]:
    """(low, high): with that confidence, at all times at once, a rate has been above low and below high at some time.

    Of errors that come one after another, each with a chance given the past. While the chance does not change it lies
    in between.
    """
    check_probability("confidence", confidence)
    check_count("n_wrong", n_wrong, at_least=0)
    check_count("n_right", n_right, at_least=0)
    one_sided = (1 + confidence) / 2

    def wealth(n_against: int, n_for: int, rate: float) -> float:
        bets = np.array(BETS)
        paths = scipy.special.xlog1py(n_against, -bets) + n_for * np.log1p(bets * rate / (1 - rate))
        return float(np.logaddexp.reduce(paths)) - math.log(len(BETS))

    high = _smallest(lambda rate: wealth(n_wrong, n_right, rate), one_sided)
    low = 1 - _smallest(lambda rate: wealth(n_right, n_wrong, rate), one_sided)
    return low, high


def _smallest(log_wealth: Callable[[float], float], confidence: float) -> float:
    needed = -math.log1p(-confidence)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if log_wealth(middle) >= needed else (middle, high)
    return high
