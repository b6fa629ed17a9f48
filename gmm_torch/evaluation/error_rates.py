"""Does the error rate fall as the p-value rises?

`cochran_armitage` looks for a fall over all bins, `rises` for a rise between any two neighbours. A small p-value of the
first and none of the second is what a useful p-value shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import scipy
import torch
from torch import Tensor

from gmm_torch.checks import check_one_each, check_p_values
from gmm_torch.evaluation.binomial import interval

EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class RateBin:
    """Inputs with low < p <= high; their rate is None where there are none, the interval is Clopper-Pearson's."""

    low: float
    high: float
    n: int
    n_errors: int
    rate: float | None
    interval: tuple[float, float]


def error_rates(
    p_values: Tensor, errors: Tensor, edges: Sequence[float] = EDGES, confidence: float = 0.95
) -> list[RateBin]:
    """The error rate by p-value, in bins (edge, next edge].

    Args:
        p_values, errors: (N,) in [0, 1], and (N,) bool or 0/1, True where the prediction is wrong.
        edges: ascending, from 0 to 1; a p-value of 0 belongs to the first bin.
        confidence: of each bin's interval, not of all together.

    Raises:
        ValueError: shapes, p-values or edges outside their range.
    """
    check_p_values(p_values)
    check_one_each("errors", "p-value", p_values, errors, do="pass True where the prediction is wrong")
    if list(edges) != sorted(set(edges)) or edges[0] != 0 or edges[-1] != 1:
        raise ValueError(f"edges: expected ascending numbers from 0 to 1; got {list(edges)}")
    inner = p_values.new_tensor(list(edges[1:-1]))
    place = torch.bucketize(p_values.contiguous(), inner)  # a value equal to an edge belongs below it
    counts = torch.bincount(place, minlength=len(edges) - 1).tolist()
    wrong = torch.bincount(place[errors.bool()], minlength=len(edges) - 1).tolist()
    return [
        RateBin(low, high, n, k, k / n if n else None, interval(k, n, confidence))
        for low, high, n, k in zip(edges[:-1], edges[1:], counts, wrong, strict=True)
    ]


def cochran_armitage(bins: Sequence[RateBin]) -> float:
    """One-sided p-value of "the error rate does not fall from bin to bin": Cochran-Armitage test for a linear trend.

    Cochran 1954, Armitage 1955; the bins, empty ones left out, count 1, 2, 3 ...; normal approximation with the
    variance of the hypergeometric distribution. 1 where all predictions or none are wrong, which shows no trend.

    Raises:
        ValueError: fewer than two bins with inputs.
    """
    filled = _filled(bins)
    n = sum(each.n for each in filled)
    k = sum(each.n_errors for each in filled)
    if k in (0, n):
        return 1.0
    mean = sum(t * each.n for t, each in enumerate(filled)) / n
    statistic = sum((t - mean) * each.n_errors for t, each in enumerate(filled))
    spread = sum((t - mean) ** 2 * each.n for t, each in enumerate(filled))
    variance = k / n * (n - k) / (n - 1) * spread
    return float(scipy.stats.norm.cdf(statistic / math.sqrt(variance)))


def rises(bins: Sequence[RateBin]) -> float:
    """P-value of "the error rate never rises from one bin to the next", against a rise somewhere.

    Every bin is compared with the next by Fisher's exact test, one-sided; the smallest p-value, times their number
    (Bonferroni), is valid for any sizes. It has little power where bins are small. Empty bins are left out.

    Raises:
        ValueError: fewer than two bins with inputs.
    """
    filled = _filled(bins)
    p = [
        scipy.stats.fisher_exact(
            [[low.n_errors, low.n - low.n_errors], [high.n_errors, high.n - high.n_errors]], alternative="less"
        ).pvalue
        for low, high in pairwise(filled)
    ]
    return float(min(1.0, len(p) * min(p)))


def _filled(bins: Sequence[RateBin]) -> list[RateBin]:
    filled = [each for each in bins if each.n]
    if len(filled) < 2:
        raise ValueError(f"trend: expected at least two bins with inputs; got {len(filled)}: choose other edges")
    return filled
