"""Rates of events: exact bounds, by p-value, and between groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gmm_torch.checks import check_count, check_one_each, check_p_values, check_probability

EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def upper_bound(n_events: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson bound: the rate exceeds it with probability <= 1 - confidence; 1 where n = 0.

    The same number is the bound of Lemma 3.1 in Geifman and El-Yaniv 2017.

    Raises:
        ValueError: not 0 <= n_events <= n, or a confidence outside (0, 1).
    """
    if not 0 <= n_events <= n:
        raise ValueError(f"binomial count: expected 0 <= events <= n; got {n_events} of {n}")
    check_probability("confidence", confidence)
    return 1.0 if n_events == n else float(scipy.special.betaincinv(n_events + 1, n - n_events, confidence))


def interval(n_events: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval (low, high) of the rate; (0, 1) where n = 0. Raises as `upper_bound`."""
    check_probability("confidence", confidence)
    one_sided = (1 + confidence) / 2
    high = upper_bound(n_events, n, one_sided)
    # from the count itself: 1 less the bound of the others would lose the digits of a small rate
    low = float(scipy.special.betaincinv(n_events, n - n_events + 1, 1 - one_sided)) if n_events else 0.0
    return low, high


def class_counts(group: Tensor, label: Tensor, n_groups: int, n_classes: int) -> Tensor:
    """Counts of each class, `label` (N,) int64, in each `group` (N,) int64: (n_groups, n_classes) int64."""
    cells = torch.bincount(group * n_classes + label, minlength=n_groups * n_classes)
    return cells.reshape(n_groups, n_classes)


def homogeneity(sizes: ArrayLike, events: ArrayLike, n_draws: int = 9999, seed: int = 0) -> float:
    """P-value of "the rate is the same in all groups", by permutation.

    The events are dealt out at random among the members, sizes of the groups kept; the statistic is Pearson's
    chi-squared. Valid for any counts; 1 where nothing or everything is an event.

    Args:
        sizes, events: (K,) integers, members of each group and events among them; empty groups are left out.
        n_draws: random deals; the p-value is never below 1 / (n_draws + 1).
    """
    check_count("n_draws", n_draws)
    sizes, events = np.asarray(sizes, dtype=np.int64), np.asarray(events, dtype=np.int64)
    sizes, events = sizes[sizes > 0], events[sizes > 0]
    total = int(events.sum())
    if len(sizes) < 2 or total in (0, int(sizes.sum())):
        return 1.0
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(sizes, total, n_draws)
    # Pearson's chi-squared, up to constants
    observed, spread = (events**2 / sizes).sum(), (dealt**2 / sizes).sum(1)
    return float((1 + (spread >= observed * (1 - 1e-12)).sum()) / (n_draws + 1))


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

    Useful p-values show a fall over all bins (`cochran_armitage`) and no rise between any two neighbours (`rises`).

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
        for (low, high), n, k in zip(pairwise(edges), counts, wrong, strict=True)
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
    tables = pairwise([each.n_errors, each.n - each.n_errors] for each in _filled(bins))
    p = [scipy.stats.fisher_exact(table, alternative="less").pvalue for table in tables]
    return float(min(1.0, len(p) * min(p)))


def _filled(bins: Sequence[RateBin]) -> list[RateBin]:
    filled = [each for each in bins if each.n]
    if len(filled) < 2:
        raise ValueError(f"trend: expected at least two bins with inputs; got {len(filled)}: choose other edges")
    return filled
