"""Tests of "failures are less typical than good inputs", also within classes, effect sizes, and AUROC differences.

All tests but `same_distribution` are one-sided: the null hypothesis is that both samples follow one distribution, the
alternative that failures score lower. They assume independent inputs; adversarial images made from the good images
are not quite, so read their p-values as an order of magnitude.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor

from gmm_torch.checks import check_one_each, check_probability, check_scores

_EXACT_KS_PAIRS = 100_000  # SciPy's exact Kolmogorov-Smirnov path count overflows on large samples


@dataclass(frozen=True)
class Comparison:
    """Result of `compare` for two samples of scores."""

    n_good: int
    n_failures: int
    mann_whitney_p: float
    ks_p: float
    superiority: float  # P(good > failure) + P(good = failure) / 2, which is the AUROC
    interval: tuple[float, float]
    confidence: float
    permutation_p: float | None = None


def compare(
    good: Tensor, failures: Tensor, confidence: float = 0.95, n_permutations: int = 0, seed: int = 0
) -> Comparison:
    """All tests of "failures are less typical than good inputs", with the effect size and its interval.

    Args:
        good, failures: (N,) and (M,) scores, higher = more typical.
        confidence: of the interval of the effect size, in (0, 1).
        n_permutations: draws of the permutation test; 0 leaves it out.

    Raises:
        ValueError: if a sample is empty, not 1-D or holds NaN, or `confidence` is outside (0, 1).
    """
    superiority = probability_of_superiority(good, failures)
    return Comparison(
        n_good=len(good),
        n_failures=len(failures),
        mann_whitney_p=mann_whitney(good, failures),
        ks_p=kolmogorov_smirnov(good, failures),
        superiority=superiority,
        interval=superiority_interval(superiority, len(good), len(failures), confidence),
        confidence=confidence,
        permutation_p=permutation(good, failures, n_permutations, seed) if n_permutations else None,
    )


def mann_whitney(good: Tensor, failures: Tensor) -> float:
    """One-sided Mann-Whitney U test: p-value of "failures do not score lower".

    Exact for small samples without ties, else the normal approximation with the correction for ties (SciPy).
    """
    x, y = _samples(good, failures)
    return float(scipy.stats.mannwhitneyu(y, x, alternative="less").pvalue)


def kolmogorov_smirnov(good: Tensor, failures: Tensor) -> float:
    """One-sided two-sample Kolmogorov-Smirnov test: p-value of "the failures' distribution function is nowhere above".

    It also sees differences in shape that leave the ranks balanced; ties make it conservative.
    """
    return _ks(failures, good, "greater")


def same_distribution(first: Tensor, second: Tensor) -> float:
    """Two-sided two-sample Kolmogorov-Smirnov test: p-value of "both samples follow one distribution".

    Exact for small samples, where p-values of the limit may be two fifths too small; ties make it conservative.
    """
    return _ks(first, second, "two-sided")


def _ks(first: Tensor, second: Tensor, alternative: str) -> float:
    x, y = _samples(first, second)
    method = "auto" if len(x) * len(y) <= _EXACT_KS_PAIRS else "asymp"
    return float(scipy.stats.ks_2samp(x, y, alternative=alternative, method=method).pvalue)


def permutation(good: Tensor, failures: Tensor, n_permutations: int = 9999, seed: int = 0) -> float:
    """Permutation test of the difference in mean rank: valid for any sample size and any ties.

    The p-value is (1 + #{permuted >= observed}) / (n_permutations + 1), never 0; exact where there are no more
    exchanges than that, or one input in a sample.
    """
    x, y = _samples(good, failures)
    ranks = scipy.stats.rankdata(np.concatenate([x, y]))
    if len(y) == 1:  # SciPy asks for two; every exchange is one of these
        return float((ranks <= ranks[-1]).mean())
    if len(x) == 1:
        return float((ranks >= ranks[0]).mean())
    result = scipy.stats.permutation_test(
        (ranks[: len(x)], ranks[len(x) :]),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        vectorized=True,
        n_resamples=n_permutations,
        batch=max(1, 10_000_000 // len(ranks)),
        alternative="greater",
        random_state=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def probability_of_superiority(good: Tensor, failures: Tensor) -> float:
    """P(good > failure) + P(good = failure) / 2 over all pairs: the AUROC, U / (N M)."""
    x, y = _samples(good, failures)
    return float(scipy.stats.mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y)))


def superiority_interval(
    superiority: float, n_good: int, n_failures: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the probability of superiority that keeps its width at 0 and 1.

    Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part
    2", Statistics in Medicine 25, method 5: the theta with |theta - estimate| <= z sqrt(V(theta)), where V is
    the variance of Hanley and McNeil (1982) with both sample sizes replaced by their mean in the numerator. A
    Wald interval, DeLong's included, has no width at an AUROC of 1, where few failures often end up.

    Raises:
        ValueError: if an argument is outside its range.
    """
    check_probability("confidence", confidence)
    if not 0 <= superiority <= 1:
        raise ValueError(f"superiority: expected a number in [0, 1]; got {superiority}")
    return _interval_of_superiority(
        superiority, lambda theta: _superiority_variance(theta, n_good, n_failures), confidence
    )


def _superiority_variance(theta: float, n_good: int, n_failures: int) -> float:
    """Variance of the estimate where the probability of superiority is theta; Newcombe 2006, see above."""
    extra = (n_good + n_failures) / 2 - 1
    spread = 1 + extra * (1 - theta) / (2 - theta) + extra * theta / (1 + theta)
    return theta * (1 - theta) * spread / (n_good * n_failures)


def _interval_of_superiority(
    estimate: float, variance: Callable[[float], float], confidence: float
) -> tuple[float, float]:
    """The theta with |theta - estimate| <= z sqrt(variance(theta)); the variance is 0 at 0 and at 1."""
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))

    def excess(theta: float) -> float:
        return (theta - estimate) ** 2 - z * z * variance(theta)

    # An estimate of 0 or 1 is itself a root of the excess; just inside it the excess is negative, as elsewhere.
    low = 0.0 if estimate == 0 else scipy.optimize.brentq(excess, 0.0, min(estimate, 1 - 1e-12))
    high = 1.0 if estimate == 1 else scipy.optimize.brentq(excess, max(estimate, 1e-12), 1.0)
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down: where the adjusted ones <= a are rejected, P(any false rejection) <= a.

    Holm 1979, "A simple sequentially rejective multiple test procedure"; valid however the tests depend.

    Raises:
        ValueError: if a p-value is outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(
            f"p-values: expected numbers in [0, 1]; got {list(p_values)}: leave out tests that could not be made"
        )
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted: list[float] = np.minimum(stepped, 1)[np.argsort(order)].tolist()
    return adjusted


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

    Without strata a test may only find that some classes are both hard and unusual. The statistic is the sum over
    strata of (rank sum of the failures) / (stratum size + 1), which is the most powerful weighting for a common shift
    (van Elteren 1960, "On the combination of independent two-sample tests of Wilcoxon"); its variance is the exact one
    under permutation, ties included. The interval is that of `superiority_interval`, with the variance of the weighted
    mean over independent strata.

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
        return float((weights**2 * _superiority_variance(theta, m, n)).sum())

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
        interval=_interval_of_superiority(overall, variance_at, confidence),
        confidence=confidence,
        n_failures=int(m.sum()),
        n_good=int(n.sum()),
        strata=tuple(
            StratumComparison(name, n_bad, n_good, effect, superiority_interval(effect, n_good, n_bad, confidence), *p)
            for name, n_bad, n_good, effect, *p in one_by_one
        ),
    )


class AurocDifference(NamedTuple):
    """AUROC of one score minus that of another, with its confidence interval."""

    difference: float
    interval: tuple[float, float]
    confidence: float


def auroc_difference(
    good: tuple[Tensor, Tensor], failures: tuple[Tensor, Tensor], confidence: float = 0.95
) -> AurocDifference:
    """AUROC of the first score minus that of the second; the interval is for paired scores.

    Zou and Yue 2013, "Using confidence intervals to compare several correlated areas under the receiver operating
    characteristic curves", Statistics in Medicine 32: the interval of the difference combines those of the two
    AUROCs (`superiority_interval`) with the correlation of their estimates (DeLong et al. 1988). Unlike a Wald
    interval it keeps its width where both AUROCs are 1.

    Args:
        good, failures: both scores of these inputs, (N,) and (M,) each, higher = more typical.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: a sample is empty, not 1-D or holds NaN, the two scores of a sample differ in number, or
            `confidence` is outside (0, 1).
    """
    for name, pair in (("good", good), ("failures", failures)):
        if len(pair[0]) != len(pair[1]):
            raise ValueError(
                f"{name}: expected two scores of the same inputs; got {len(pair[0])} and {len(pair[1])}: pass both "
                "scores of every input"
            )
    below, above = zip(*(_placements(*_samples(x, y)) for x, y in zip(good, failures, strict=True)), strict=True)
    aurocs = [float(each.mean()) for each in below]
    # correlation of the two estimates; 0 if one of them does not vary
    covariance = sum((np.cov(pair) / len(pair[0]) for pair in (below, above) if len(pair[0]) > 1), np.zeros((2, 2)))
    scale = float(np.sqrt(covariance[0, 0] * covariance[1, 1]))
    correlation = float(np.clip(covariance[0, 1] / scale, -1, 1)) if scale > 0 else 0.0

    def distance(first: float, second: float) -> float:
        return float(np.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second)))

    sizes = len(good[0]), len(failures[0])
    (low1, high1), (low2, high2) = (superiority_interval(auroc, *sizes, confidence) for auroc in aurocs)
    first, second = aurocs
    difference = first - second
    low = max(-1.0, difference - distance(first - low1, high2 - second))
    high = min(1.0, difference + distance(high1 - first, second - low2))
    return AurocDifference(difference, (low, high), confidence)


def _placements(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares (N,) of failures y below each good input x, and (M,) of good inputs above each failure.

    A tie counts half; the mean of either is the AUROC.
    """
    rank = scipy.stats.rankdata(np.concatenate([x, y]))
    below = (rank[: len(x)] - scipy.stats.rankdata(x)) / len(y)
    return below, 1 - (rank[len(x) :] - scipy.stats.rankdata(y)) / len(x)


def _samples(good: Tensor, failures: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    check_scores("good", good)
    check_scores("failures", failures)
    x, y = (sample.detach().cpu().double().numpy() for sample in (good, failures))
    return x, y
