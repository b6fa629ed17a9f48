"""The difference between the AUROCs of two scores on the same inputs."""

from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor

from gmm_torch.checks import check_probability, check_scores
from gmm_torch.evaluation.hypothesis_tests import superiority_interval


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
    characteristic curves", Statistics in Medicine 32: the interval of the difference is made of those of the two
    AUROCs (`superiority_interval`) and of the correlation of their estimates (DeLong et al. 1988). Unlike a Wald
    interval it keeps its width where both AUROCs are 1.

    Args:
        good, failures: both scores of these inputs, (N,) and (M,) each, higher = more typical.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: a sample is empty, not 1-D or holds NaN, the two scores of a sample differ in number, or
            `confidence` is outside (0, 1).
    """
    check_probability("confidence", confidence)
    for name, pair in (("good", good), ("failures", failures)):
        for scores in pair:
            check_scores(name, scores)
        if len(pair[0]) != len(pair[1]):
            raise ValueError(
                f"{name}: expected two scores of the same inputs; got {len(pair[0])} and {len(pair[1])}: pass both "
                "scores of every input"
            )
    places = [_placements(x, y) for x, y in zip(good, failures, strict=True)]
    first, second = (float(of_good.mean()) for of_good, _ in places)
    correlation = _correlation([of_good for of_good, _ in places], [of_failures for _, of_failures in places])
    sizes = len(good[0]), len(failures[0])
    (low1, high1), (low2, high2) = (superiority_interval(auroc, *sizes, confidence) for auroc in (first, second))
    below = _distance(first - low1, high2 - second, correlation)
    above = _distance(high1 - first, second - low2, correlation)
    difference = first - second
    return AurocDifference(difference, (max(-1.0, difference - below), min(1.0, difference + above)), confidence)


def _placements(good: Tensor, failures: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) and (M,): share of the failures below each good input, and of the good inputs above each failure.

    A tie counts half; the mean of either is the AUROC.
    """
    x, y = (sample.detach().cpu().double().numpy() for sample in (good, failures))
    rank = scipy.stats.rankdata(np.concatenate([x, y]))
    below = (rank[: len(x)] - scipy.stats.rankdata(x)) / len(y)
    return below, 1 - (rank[len(x) :] - scipy.stats.rankdata(y)) / len(x)


def _correlation(good: list[NDArray[Any]], failures: list[NDArray[Any]]) -> float:
    """Correlation of the estimates of two AUROCs, from their placements; 0 if one of them does not vary."""
    parts = [np.cov(pair) / pair[0].size for pair in (good, failures) if pair[0].size > 1]
    covariance = sum(parts, np.zeros((2, 2)))
    scale = float(np.sqrt(covariance[0, 0] * covariance[1, 1]))
    return float(np.clip(covariance[0, 1] / scale, -1, 1)) if scale > 0 else 0.0


def _distance(first: float, second: float, correlation: float) -> float:
    return float(np.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second)))
