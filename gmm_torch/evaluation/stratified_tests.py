"""Tests of "wrong predictions are less typical than right ones" within strata, such as predicted classes.

Without strata a test may only find that some classes are both hard and unusual. Here wrong and right predictions are
compared within each stratum alone, and the comparisons are added up.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from torch import Tensor

from gmm_torch.checks import check_one_each, check_probability, check_scores
from gmm_torch.evaluation.hypothesis_tests import (
    holm,
    interval_of_superiority,
    superiority_interval,
    superiority_variance,
)


@dataclass(frozen=True)
class StratumComparison:
    """Comparison within one stratum.

    Attributes:
        name: of the stratum, such as a class.
        n_failures, n_good: its inputs.
        superiority, interval: P(good > failure) + P(good = failure) / 2, and its interval for this stratum alone.
        mann_whitney_p, mann_whitney_p_holm: one-sided p-value of "failures do not score lower"; the same, corrected.
    """

    name: int
    n_failures: int
    n_good: int
    superiority: float
    interval: tuple[float, float]
    mann_whitney_p: float
    mann_whitney_p_holm: float


@dataclass(frozen=True)
class StratifiedComparison:
    """Result of `compare_within`.

    Attributes:
        van_elteren_p: one-sided p-value of "failures do not score lower within strata", normal approximation.
        permutation_p: the same from random exchanges within strata, valid for any sizes and ties; None without draws.
        superiority: P(good > failure) + P(good = failure) / 2 for a pair of one stratum, strata weighted by their
            number of pairs: the AUROC within strata.
        interval, confidence: of the superiority, if it is the same in all strata.
        n_failures, n_good: inputs in the strata that were compared.
        strata: those that hold both good inputs and failures, one by one; the others say nothing.
    """

    van_elteren_p: float
    permutation_p: float | None
    superiority: float
    interval: tuple[float, float]
    confidence: float
    n_failures: int
    n_good: int
    strata: tuple[StratumComparison, ...]


def compare_within(
    scores: Tensor, failure: Tensor, stratum: Tensor, confidence: float = 0.95, n_permutations: int = 0, seed: int = 0
) -> StratifiedComparison:
    """Test "failures score lower" within strata, such as predicted classes.

    The statistic is the sum over strata of (rank sum of the failures) / (stratum size + 1), which is the most powerful
    weighting for a common shift (van Elteren 1960, "On the combination of independent two-sample tests of Wilcoxon");
    its variance is the exact one under permutation, ties included. The interval is that of `superiority_interval`, with
    the variance of the weighted mean over independent strata.

    Args:
        scores: (N,), higher = more typical.
        failure, stratum: (N,) bool or 0/1, True where the prediction is wrong, and (N,) integers.
        confidence: of the intervals, in (0, 1).
        n_permutations: draws of the permutation test; 0 leaves it out.

    Raises:
        ValueError: shapes, NaN, or no stratum with both good inputs and failures.
    """
    check_probability("confidence", confidence)
    check_scores("scores", scores)
    check_one_each("failure", "score", scores, failure)
    check_one_each("stratum", "score", scores, stratum)
    x, wrong, names = (value.detach().cpu().numpy() for value in (scores.double(), failure.bool(), stratum.long()))
    all_names = np.unique(names)
    strata = {}  # name -> mean ranks, failures
    for name in all_names:
        own = names == name
        if 0 < wrong[own].mean() < 1:
            strata[int(name)] = scipy.stats.rankdata(x[own]), wrong[own]
    if not strata:
        raise ValueError(
            f"strata: expected at least one with both good inputs and failures; none of {len(all_names)} has: "
            "there is nothing to compare within them"
        )
    m, size = np.array([[bad.sum(), len(bad)] for _, bad in strata.values()]).T
    n = size - m
    observed = sum(ranks[bad].sum() / (len(ranks) + 1) for ranks, bad in strata.values())
    mean = (m / 2).sum()  # of a rank (size + 1) / 2, over size + 1
    # of a sum of m of the ranks, drawn without replacement
    variance = (m * n / size * [ranks.var(ddof=1) for ranks, _ in strata.values()] / (size + 1) ** 2).sum()
    sums = np.array([ranks[~bad].sum() for ranks, bad in strata.values()])
    superiority = (sums - n * (n + 1) / 2) / (m * n)  # of each stratum
    weights = m * n / (m * n).sum()
    overall = min(1.0, float(weights @ superiority))

    def variance_at(theta: float) -> float:
        return float((weights**2 * superiority_variance(theta, m, n)).sum())

    permutation_p = None
    if n_permutations:
        random = np.random.default_rng(seed)
        drawn = np.zeros(n_permutations)
        for ranks, bad in strata.values():
            m_of, scale = bad.sum(), len(ranks) + 1
            drawn += [random.choice(ranks, m_of, replace=False).sum() / scale for _ in range(n_permutations)]
        permutation_p = float((1 + (drawn <= observed + 1e-9).sum()) / (n_permutations + 1))
    p = [
        scipy.stats.mannwhitneyu(ranks[bad], ranks[~bad], alternative="less").pvalue.item()
        for ranks, bad in strata.values()
    ]
    one_by_one = zip(strata, m.tolist(), n.tolist(), superiority.tolist(), p, holm(p), strict=True)
    return StratifiedComparison(
        # equal scores are no evidence
        van_elteren_p=float(scipy.stats.norm.cdf((observed - mean) / variance**0.5)) if variance > 0 else 1.0,
        permutation_p=permutation_p,
        superiority=overall,
        interval=interval_of_superiority(overall, variance_at, confidence),
        confidence=confidence,
        n_failures=int(m.sum()),
        n_good=int(n.sum()),
        strata=tuple(
            StratumComparison(name, n_bad, n_good, effect, superiority_interval(effect, n_good, n_bad, confidence), *p)
            for name, n_bad, n_good, effect, *p in one_by_one
        ),
    )
