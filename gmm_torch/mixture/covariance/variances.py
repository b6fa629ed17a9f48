"""Base of the families with variances only."""

from abc import abstractmethod

import torch
from torch import Tensor

from gmm_torch.mixture.covariance.base import CovarianceFamily, Factors
from gmm_torch.mixture.linear_algebra import require_positive

__all__ = ["Variances"]


class Variances(CovarianceFamily):
    """Factors: {"factor": any shape}, inverse standard deviations; covariances have the shape of the factors."""

    by_point = True

    @abstractmethod
    def wide(self, factor: Tensor, n_features: int) -> Tensor:
        """Inverse standard deviations of every feature of every component, (..., K, D)."""

    def squared_distance(self, x: Tensor, means: Tensor, factors: Factors) -> Tensor:
        centred = x[:, None] - means  # (N, K, D)
        return (centred * self.wide(factors["factor"], x.shape[1])).square().sum(-1)

    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        return torch.diag_embed(self.wide(factors["factor"], n_features).square().reciprocal())

    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        return noise / self.wide(factors["factor"], noise.shape[1])[component]

    def precision_times(self, vectors: Tensor, factors: Factors) -> Tensor:
        return vectors * self.precision_diagonal(factors, vectors.shape[-1])

    def precision_diagonal(self, factors: Factors, n_features: int) -> Tensor:
        return self.wide(factors["factor"], n_features).square()

    def precision_norm(self, factors: Factors, n_features: int) -> Tensor:
        result: Tensor = torch.linalg.vector_norm(self.precision_diagonal(factors, n_features), dim=-1)
        return result

    def covariances(self, factors: Factors, n_features: int) -> Tensor:
        return factors["factor"].square().reciprocal()

    def from_covariances(self, covariances: Tensor) -> Factors:
        return {"factor": require_positive(covariances, "covariances").rsqrt()}

    def from_precisions(self, precisions: Tensor) -> Factors:
        return {"factor": require_positive(precisions, "precisions").sqrt()}

    def unconstrain(self, factors: Factors) -> Factors:
        return {"factor": factors["factor"].log()}

    def constrain(self, raw: Factors) -> Factors:
        return {"factor": raw["factor"].exp()}
