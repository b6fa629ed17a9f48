"""A separate variance for every feature of every component."""

import torch
from torch import Tensor

from gmm_torch.mixture.covariance.base import Factors
from gmm_torch.mixture.covariance.variances import Variances

__all__ = ["Diag"]


class Diag(Variances):
    """Factors: {"factor": (..., K, D)}, the inverse standard deviations. Q = D products: the squares."""

    name = "diag"

    def wide(self, factor: Tensor, n_features: int) -> Tensor:
        return factor

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        return -2 * factors["factor"].log().sum(-1)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        return {"factor": factors["factor"] / scale}

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
