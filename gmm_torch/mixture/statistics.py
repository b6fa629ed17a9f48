"""Sufficient statistics: the result of an E-step and the input of an M-step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_torch.devices import rows_at_once
from gmm_torch.distributed import all_reduce_sum, gather, is_distributed
from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.linear_algebra import robust_cholesky
from gmm_torch.mixture.parameters import Parameters

__all__ = ["Statistics", "moments_of", "stand_ins"]


@dataclass(frozen=True)
class Statistics:
    """Float64 statistics of weighted points under the parameters of R mixtures; `+` adds those of other points."""

    total_weight: Tensor  # (), sum of weights
    log_likelihood: Tensor  # (R,), weighted sum of the objective over the points
    moments: Factors  # the covariance family's sums, each with the leading dimension R
    worst: Tensor  # (R,), smallest objective at a point of positive weight
    worst_point: Tensor  # (R, D), that point
    worst_weight: Tensor  # (R,), its weight

    def __add__(self, other: "Statistics") -> "Statistics":
        smaller = other.worst < self.worst
        return Statistics(
            self.total_weight + other.total_weight,
            self.log_likelihood + other.log_likelihood,
            {name: value + other.moments[name] for name, value in self.moments.items()},
            torch.where(smaller, other.worst, self.worst),
            torch.where(smaller[:, None], other.worst_point, self.worst_point),
            torch.where(smaller, other.worst_weight, self.worst_weight),
        )

    def reduce(self) -> "Statistics":
        """The sum over all processes."""
        if not is_distributed():
            return self
        total_weight, log_likelihood, *moments = all_reduce_sum(
            [self.total_weight, self.log_likelihood, *self.moments.values()]
        )
        worst = gather(self.worst)  # (processes, R)
        chosen = worst.argmin(0), torch.arange(worst.shape[1], device=worst.device)
        points, weights = gather(self.worst_point)[chosen], gather(self.worst_weight)[chosen]
        summed = dict(zip(self.moments, moments, strict=True))
        return Statistics(total_weight, log_likelihood, summed, worst[chosen], points, weights)


def stand_ins(counts: Tensor, means: Tensor, covariances: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield points (n, D), and weights (K, n), with the given counts (K,), means (K, D) and covariances (K, D, D).

    A component with covariance L L' gets its mean plus and minus the root of D times each column of L: 2 D points with
    its mean and its covariance, whose weights add up to its count. All are float64.
    """
    k, d = means.shape
    at_once = rows_at_once(means.device, 2 * d * d * means.itemsize)
    share = counts / (2 * d)
    for some in torch.arange(k, device=share.device).split(at_once):
        lower, _ = robust_cholesky(covariances[some])
        columns = d**0.5 * lower.mT
        points = means[some, None] + torch.cat([columns, -columns], dim=1)
        own = torch.nn.functional.one_hot(some, k).to(share) * share
        yield points.flatten(0, 1), own.mT.repeat_interleave(2 * d, dim=1)


def moments_of(
    family: CovarianceFamily, parameters: Parameters, counts: Tensor, means: Tensor, covariances: Tensor
) -> Factors:
    """The family's sums over points whose components have these counts, means and covariances."""
    prepared = family.prepare(parameters, torch.zeros_like(means[0]))
    parts = [
        family.moments(prepared, family.features(x.mT.contiguous()), weight)
        for x, weight in stand_ins(counts, means, covariances)
    ]
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
