"""Does every predicted class bear the same share of the refusals?"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gmm_torch.functional.checks import check_count
from gmm_torch.testing.binomial import interval


@dataclass(frozen=True)
class ClassRate:
    """The inputs of one predicted class, and how many of them are refused.

    Attributes:
        name: of the class.
        n, n_refused: counts, n >= 1.
        rate: n_refused / n.
        interval: Clopper-Pearson interval of the rate, for this class alone.
    """

    name: int
    n: int
    n_refused: int
    rate: float
    interval: tuple[float, float]


def class_rates(refused: Tensor, prediction: Tensor, confidence: float = 0.95) -> list[ClassRate]:
    """The share of refused inputs in each predicted class that occurs.

    Args:
        refused: (N,) bool or 0/1.
        prediction: (N,) integers.
        confidence: of each interval.

    Raises:
        ValueError: shapes.
    """
    if refused.ndim != 1 or len(refused) == 0 or refused.shape != prediction.shape:
        raise ValueError(
            f"refused and prediction: expected one of each per input, shape (N,), N >= 1; got {tuple(refused.shape)} "
            f"and {tuple(prediction.shape)}"
        )
    names, place = np.unique(prediction.detach().cpu().numpy(), return_inverse=True)
    sizes = np.bincount(place)
    counts = np.bincount(place, weights=refused.bool().cpu().numpy()).astype(int)
    return [
        ClassRate(int(name), int(n), int(k), float(k / n), interval(int(k), int(n), confidence))
        for name, n, k in zip(names, sizes, counts, strict=True)
    ]


def homogeneity(rates: list[ClassRate], n_draws: int = 9999, seed: int = 0) -> float:
    """P-value of "the rate is the same in all classes".

    The statistic is chi-squared, sum of (refused - expected)^2 / expected; it is compared with its values when the
    refusals are dealt to the classes at random, which is valid for any counts. 1 where none or all are refused.

    Args:
        rates: of every class.
        n_draws: random deals; the p-value is never below 1 / (n_draws + 1).
        seed: of these.
    """
    check_count("n_draws", n_draws)
    sizes = np.array([each.n for each in rates])
    refused = np.array([each.n_refused for each in rates])
    expected = sizes * (refused.sum() / sizes.sum())
    if not 0 < refused.sum() < sizes.sum():
        return 1.0
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(sizes, refused.sum(), n_draws)
    observed = ((refused - expected) ** 2 / expected).sum()
    at_least = ((dealt - expected) ** 2 / expected).sum(1) >= observed * (1 - 1e-9)
    return float((1 + at_least.sum()) / (n_draws + 1))
