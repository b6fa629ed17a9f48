"""A covariance matrix of its own for every component."""

import torch
from torch import Tensor

from gmm_torch.covariance.base import CovarianceFamily, Factors
from gmm_torch.functional.linear_algebra import (
    covariance_factor,
    pack_symmetric,
    precision_factor,
    symmetric_products,
    unpack_symmetric,
)
from gmm_torch.functional.positive_definite import checked_factor_of_precision, checked_precision_factor


class Full(CovarianceFamily):
    """Factors: {"factor": (..., K, D, D)}, upper triangular U with U U' the precision of the component."""

    name = "full"

    def squared_distance(self, x: Tensor, means: Tensor, factors: Factors) -> Tensor:
        """See `CovarianceFamily`; O(N K D) memory."""
        centred = x - means[:, None]  # (K, N, D)
        return (centred @ factors["factor"]).square().sum(-1).mT

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        """(..., K)."""
        return -2 * factors["factor"].diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def covariances(self, factors: Factors, n_features: int) -> Tensor:
        """(..., K, D, D)."""
        lower = covariance_factor(factors["factor"])
        return lower @ lower.mT

    def from_covariances(self, covariances: Tensor) -> Factors:
        """From (..., K, D, D)."""
        return {"factor": checked_precision_factor(covariances, "covariances")}

    def from_precisions(self, precisions: Tensor) -> Factors:
        """From symmetric positive-definite matrices."""
        return {"factor": checked_factor_of_precision(precisions, "precisions")}

    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        """(..., K, D, D)."""
        return self.covariances(factors, n_features)

    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        """(S, D)."""
        # x = U'^-1 e has covariance (U U')^-1. Component by component: (S, D, D) would not fit.
        lower = covariance_factor(factors["factor"])
        deviation = torch.empty_like(noise)
        for k in component.unique().tolist():
            chosen = component == k
            deviation[chosen] = noise[chosen] @ lower[k].mT
        return deviation

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """K D (D + 1) / 2."""
        return n_components * n_features * (n_features + 1) // 2

    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        """Rows of U divided by the scale."""
        return {"factor": factors["factor"] / scale[:, None]}

    def unconstrain(self, factors: Factors) -> Factors:
        """The diagonal as logarithms."""
        upper = factors["factor"]
        log_diagonal = upper.diagonal(dim1=-2, dim2=-1).log()
        return {"factor": upper.triu(1) + torch.diag_embed(log_diagonal)}

    def constrain(self, raw: Factors) -> Factors:
        """The diagonal as exponentials."""
        diagonal = raw["factor"].diagonal(dim1=-2, dim2=-1).exp()
        return {"factor": raw["factor"].triu(1) + torch.diag_embed(diagonal)}

    def empty(self, n_components: int, n_features: int) -> Factors:
        """(K, D, D) identities."""
        return {"factor": torch.eye(n_features).expand(n_components, -1, -1).clone()}

    def products(self, columns: Tensor, out: Tensor | None = None) -> Tensor:
        """(D (D + 1) / 2, n)."""
        return symmetric_products(columns, out=out)

    def n_products(self, n_features: int) -> int:
        """D (D + 1) / 2."""
        return n_features * (n_features + 1) // 2

    def quadratic(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        """(..., K, D (D + 1) / 2)."""
        return pack_symmetric(factors["factor"] @ factors["factor"].mT)

    def precision_times(self, vectors: Tensor, factors: Factors) -> Tensor:
        """(..., K, D)."""
        upper = factors["factor"]
        return (upper @ (upper.mT @ vectors[..., None]))[..., 0]

    def precision_diagonal(self, factors: Factors, n_features: int) -> Tensor:
        """(..., K, D)."""
        return factors["factor"].square().sum(-1)

    def precision_norm(self, factors: Factors, n_features: int) -> Tensor:
        """(..., K)."""
        return torch.linalg.matrix_norm(factors["factor"] @ factors["factor"].mT)

    def estimate(self, moments: Factors, means: Tensor, mass: Tensor, ridge: Tensor) -> tuple[Factors, Tensor]:
        """Second moments about the mean, plus the ridge."""
        n_features = means.shape[-1]
        second = moments["moments"][..., : self.n_products(n_features)] / mass[..., None]
        covariance = unpack_symmetric(second, n_features) - means[..., :, None] * means[..., None, :]
        # Rounding can leave a variance below zero; the ridge is added to what is left.
        negative = covariance.diagonal(dim1=-2, dim2=-1).clamp_max(0)
        factor, jitter = precision_factor(covariance + torch.diag_embed(ridge - negative))
        return {"factor": factor}, jitter

    def replace(self, factors: Factors, component: Tensor, variance: Tensor) -> Factors:
        """U = diag(1 / sqrt(variance)) for the component."""
        fresh = torch.diag_embed(variance.rsqrt())
        return {"factor": torch.where(component[..., None, None], fresh, factors["factor"])}
