"""Sufficient statistics: what an E-step leaves behind and an M-step needs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_torch.covariance import Factors
from gmm_torch.distributed import all_reduce_sum, gather, is_distributed


@dataclass(frozen=True)
class Statistics:
    """Statistics of some weighted points under given parameters of R mixtures; `+` adds those of other points.

    Attributes:
        total_weight: () float64, sum of weights.
        log_likelihood: (R,) float64, weighted sum of the objective over the points.
        moments: what the covariance family sums, float64, each with the leading dimension R.
        worst: (R,) float64, smallest objective at a point of positive weight.
        worst_point: (R, D) float64, that point.
        worst_weight: (R,) float64, its weight.
    """

    total_weight: Tensor
    log_likelihood: Tensor
    moments: Factors
    worst: Tensor
    worst_point: Tensor
    worst_weight: Tensor

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
        worst, points = gather(self.worst), gather(self.worst_point)  # (processes, R), (processes, R, D)
        weights = gather(self.worst_weight)
        winner = worst.argmin(0)
        restart = torch.arange(worst.shape[1], device=worst.device)
        return Statistics(
            total_weight,
            log_likelihood,
            dict(zip(self.moments, moments, strict=True)),
            worst[winner, restart],
            points[winner, restart],
            weights[winner, restart],
        )
