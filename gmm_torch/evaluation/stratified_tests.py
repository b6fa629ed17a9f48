"""Are wrong predictions less typical than right ones *of the same predicted class*?

Without strata a test may only find that some classes are both hard and unusual. Here wrong and right predictions are
compared within each stratum alone, and the comparisons are added up.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
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
    """One stratum by itself.

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
        permutation_p: the same from random exchanges within strata, valid for any sizes and ties; None if not made.
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


@dataclass(frozen=True)
class _Stratum:
    name: int
    ranks: NDArray[np.float64]  # mean ranks
    failure: NDArray[np.bool_]

    @property
    def sizes(self) -> tuple[int, int]:
        """Failures and good inputs."""
        m = int(self.failure.sum())
        return m, len(self.failure) - m

    @property
    def superiority(self) -> float:
        m, n = self.sizes
        return float((self.ranks[~self.failure].sum() - n * (n + 1) / 2) / (m * n))


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
    strata = _strata(scores, failure, stratum)
    observed = sum(float(s.ranks[s.failure].sum()) / (len(s.ranks) + 1) for s in strata)
    mean = sum(s.sizes[0] / 2 for s in strata)  # of a rank (size + 1) / 2, over size + 1
    variance = sum(_variance(s) for s in strata)
    # all scores equal: no evidence at all
    z = (observed - mean) / variance**0.5 if variance > 0 else 0.0
    pairs = np.array([s.sizes[0] * s.sizes[1] for s in strata])
    weights = pairs / pairs.sum()
    superiority = min(1.0, float(weights @ [s.superiority for s in strata]))
    return StratifiedComparison(
        van_elteren_p=float(scipy.stats.norm.cdf(z)) if variance > 0 else 1.0,
        permutation_p=_permutation(strata, observed, n_permutations, seed) if n_permutations else None,
        superiority=superiority,
        interval=interval_of_superiority(
            superiority,
            lambda theta: sum(
                w * w * superiority_variance(theta, *s.sizes) for w, s in zip(weights.tolist(), strata, strict=True)
            ),
            confidence,
        ),
        confidence=confidence,
        n_failures=sum(s.sizes[0] for s in strata),
        n_good=sum(s.sizes[1] for s in strata),
        strata=_one_by_one(strata, confidence),
    )


def _one_by_one(strata: list[_Stratum], confidence: float) -> tuple[StratumComparison, ...]:
    samples = [(s.ranks[s.failure], s.ranks[~s.failure]) for s in strata]
    p = [float(scipy.stats.mannwhitneyu(low, high, alternative="less").pvalue) for low, high in samples]
    found = []
    for s, alone, corrected in zip(strata, p, holm(p), strict=True):
        m, n = s.sizes
        interval = superiority_interval(s.superiority, n, m, confidence)
        found.append(StratumComparison(s.name, m, n, s.superiority, interval, alone, corrected))
    return tuple(found)


def _variance(s: _Stratum) -> float:
    m, n = s.sizes
    # of a sum of m of the ranks, drawn without replacement
    return float(m * n / (m + n) * s.ranks.var(ddof=1)) / (m + n + 1) ** 2


def _permutation(strata: list[_Stratum], observed: float, n_permutations: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    drawn = np.zeros(n_permutations)
    for s in strata:
        m, _ = s.sizes
        drawn += [random.choice(s.ranks, m, replace=False).sum() / (len(s.ranks) + 1) for _ in range(n_permutations)]
    return float((1 + (drawn <= observed + 1e-9).sum()) / (n_permutations + 1))


def _strata(scores: Tensor, failure: Tensor, stratum: Tensor) -> list[_Stratum]:
    check_scores("scores", scores)
    check_one_each("failure", "score", scores, failure)
    check_one_each("stratum", "score", scores, stratum)
    x, wrong, names = (value.detach().cpu().numpy() for value in (scores.double(), failure.bool(), stratum.long()))
    all_names = np.unique(names)
    strata = []
    for name in all_names:
        own = names == name
        if 0 < wrong[own].mean() < 1:
            strata.append(_Stratum(int(name), scipy.stats.rankdata(x[own]), wrong[own]))
    if not strata:
        raise ValueError(
            f"strata: expected at least one with both good inputs and failures; none of {len(all_names)} has: "
            "there is nothing to compare within them"
        )
    return strata
