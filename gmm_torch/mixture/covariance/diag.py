"""A variance of its own for every feature of every component."""

import torch
from torch import Tensor

from gmm_torch.mixture.covariance.base import Factors
from gmm_torch.mixture.covariance.variances import Variances


class Diag(Variances):
    """Factors: {"factor": (..., K, D)}, the inverse standard deviations."""

    name = "diag"

    def wide(self, factor: Tensor, n_features: int) -> Tensor:
        """(..., K, D)."""
        return factor

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        """(..., K)."""
        return -2 * factors["factor"].log().sum(-1)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """K D."""
        return n_components * n_features

    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        """Divided by the scale."""
        return {"factor": factors["factor"] / scale}

    def unit(self, n_components: int, n_features: int) -> Factors:
        """(K, D) ones."""
        return {"factor": torch.ones(n_components, n_features, device="cpu")}

    def products(self, columns: Tensor, out: Tensor | None = None) -> Tensor:
        """(D, n) squares."""
        return torch.mul(columns, columns, out=out)

    def n_products(self, n_features: int) -> int:
        """D."""
        return n_features

    def quadratic(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        """(..., K, D)."""
        return factors["factor"].square()

    def estimate(self, moments: Factors, means: Tensor, counts: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        """Variances about the mean, plus `reg_covar`."""
        second = moments["moments"][..., means.shape[-1] + 1 :] / counts[..., None]
        variance = (second - means.square()).clamp_min(0) + reg_covar
        return {"factor": variance.rsqrt()}, torch.zeros_like(counts)

    def fresh(self, variance: Tensor) -> Factors:
        """The inverse roots of the variances."""
        return {"factor": variance.rsqrt()}
