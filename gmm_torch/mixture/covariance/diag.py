"""A separate variance for every feature of every component."""

import torch
from torch import Tensor

from gmm_torch.mixture.covariance.base import CovarianceFamily, Factors
from gmm_torch.mixture.linear_algebra import require_positive

__all__ = ["Diag"]


class Diag(CovarianceFamily):
    """Factors: {"factor": (..., K, D)}, the inverse standard deviations. Q = D products: the squares.

    Subclasses may share inverse standard deviations: `wide` gives those of every feature of every component.
    """

    name = "diag"
    by_point = True

    def wide(self, factor: Tensor, n_features: int) -> Tensor:
        """Inverse standard deviations (..., K, D), or broadcastable to it."""
        return factor

    def squared_distance(self, x: Tensor, means: Tensor, factors: Factors) -> Tensor:
        centred = x[:, None] - means  # (N, K, D)
        return (centred * self.wide(factors["factor"], x.shape[1])).square().sum(-1)

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        return -2 * factors["factor"].log().sum(-1)

    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        return torch.diag_embed(self.wide(factors["factor"], n_features).square().reciprocal())

    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        return noise / self.wide(factors["factor"], noise.shape[1])[component]

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        return {"factor": factors["factor"] / scale}

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

    def products(self, columns: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(columns, columns, out=out)

    def n_products(self, n_features: int) -> int:
        return n_features

    def quadratic(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        return factors["factor"].square()

    def estimate(self, moments: Factors, means: Tensor, counts: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        second = moments["moments"][..., means.shape[-1] + 1 :] / counts[..., None]
        variance = (second - means.square()).clamp_min(0) + reg_covar
        return {"factor": variance.rsqrt()}, torch.zeros_like(counts)

    def fresh(self, variance: Tensor) -> Factors:
        return {"factor": variance.rsqrt()}
