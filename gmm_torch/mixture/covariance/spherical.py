"""One variance per component, the same in every direction."""

import torch
from torch import Tensor

from gmm_torch.mixture.covariance.base import Factors
from gmm_torch.mixture.covariance.diag import Diag

__all__ = ["Spherical"]


class Spherical(Diag):
    """Factors: {"factor": (..., K)}, the inverse standard deviations. Q = 1 product: the squared norm."""

    name = "spherical"
    scales_features = False

    def wide(self, factor: Tensor, n_features: int) -> Tensor:
        return factor[..., None].expand(*factor.shape, n_features)

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        return -2 * n_features * factors["factor"].log()

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        return {"factor": factors["factor"] / scale[0]}

    def products(self, columns: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            return columns.square().sum(0, keepdim=True)
        # A norm writes no squares, so needs no fresh memory. Not differentiated: its slope at zero does not matter.
        norm: Tensor = torch.linalg.vector_norm(columns, dim=0, keepdim=True, out=out)
        return norm.square_()

    def n_products(self, n_features: int) -> int:
        return 1

    def quadratic(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        return factors["factor"].square()[..., None]

    def estimate(self, moments: Factors, means: Tensor, counts: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        second = moments["moments"][..., -1] / counts
        variance = (second - means.square().sum(-1)).clamp_min(0) / means.shape[-1] + reg_covar.mean()
        return {"factor": variance.rsqrt()}, torch.zeros_like(counts)

    def fresh(self, variance: Tensor) -> Factors:
        return {"factor": variance.mean().rsqrt()}
