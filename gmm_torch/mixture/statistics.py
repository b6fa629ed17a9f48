"""Sufficient statistics: what an E-step leaves behind and an M-step needs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_torch.distributed import all_reduce_sum, gather, is_distributed
from gmm_torch.mixture.covariance import Factors


@dataclass(frozen=True)
class Statistics:
    """Statistics of some weighted points under given parameters of R mixtures; `+` adds those of other points.

    All are float64.
    """

    total_weight: Tensor  # (), sum of weights
    log_likelihood: Tensor  # (R,), weighted sum of the objective over the points
    moments: Factors  # what the covariance family sums, each with the leading dimension R
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
