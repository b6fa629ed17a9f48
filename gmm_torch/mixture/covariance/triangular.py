"""Base of the families stored as triangular factors of the precisions."""

import torch
from torch import Tensor

from gmm_torch.mixture.covariance.base import CovarianceFamily, Factors
from gmm_torch.mixture.linear_algebra import (
    covariance_factor,
    factor_of_covariance,
    factor_of_precision,
    log_det_of_factor,
    precision_factor,
    times_transpose,
)
from gmm_torch.mixture.parameters import Parameters

__all__ = ["Triangular", "oracle_approximating_shrinkage"]


class Triangular(CovarianceFamily):
    """Factors: {"factor": (..., D, D)}, upper triangular U with U U' a precision. Stored with a logarithmic diagonal.

    Results have one entry per matrix; a family whose components share one matrix broadcasts them.
    """

    shrinks = True

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        return -log_det_of_factor(factors["factor"])

    def covariances(self, factors: Factors, n_features: int) -> Tensor:
        return times_transpose(covariance_factor(factors["factor"]))

    def from_covariances(self, covariances: Tensor) -> Factors:
        return {"factor": factor_of_covariance(covariances, "covariances")}

    def from_precisions(self, precisions: Tensor) -> Factors:
        return {"factor": factor_of_precision(precisions, "precisions")}

    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        return {"factor": factors["factor"] / scale[:, None]}

    def unconstrain(self, factors: Factors) -> Factors:
        upper = factors["factor"]
        return {"factor": upper.triu(1) + torch.diag_embed(upper.diagonal(dim1=-2, dim2=-1).log())}

    def constrain(self, raw: Factors) -> Factors:
        diagonal = torch.diag_embed(raw["factor"].diagonal(dim1=-2, dim2=-1).exp())
        # `where` is a single pass; `triu` of many matrices is slow on a CPU.
        above = torch.ones(diagonal.shape[-2:], dtype=torch.bool, device=diagonal.device).triu(1)
        return {"factor": torch.where(above, raw["factor"], diagonal)}

    def precision_diagonal(self, factors: Factors, n_features: int) -> Tensor:
        return factors["factor"].square().sum(-1)

    def precision_norm(self, factors: Factors, n_features: int) -> Tensor:
        result: Tensor = torch.linalg.matrix_norm(factors["factor"] @ factors["factor"].mT)
        return result

    def factorise(self, covariance: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        """Factors of estimated covariances (..., D, D) plus `reg_covar` (D,), and the jitter (...,) used."""
        # Rounding can leave a variance below zero: raise it to zero before adding `reg_covar`.
        negative = covariance.diagonal(dim1=-2, dim2=-1).clamp_max(0)
        factor, jitter = precision_factor(covariance + torch.diag_embed(reg_covar - negative))
        return {"factor": factor}, jitter

    def fresh(self, variance: Tensor) -> Factors:
        return {"factor": torch.diag_embed(variance.rsqrt())}

    def shrink(self, parameters: Parameters, counts: Tensor) -> Parameters:
        covariances = self.covariances(parameters.factors, parameters.means.shape[-1])
        n = counts if covariances.dim() > counts.dim() + 1 else counts.sum(-1)  # one matrix per component, or one
        factor, _ = precision_factor(oracle_approximating_shrinkage(covariances, n))
        return Parameters(parameters.log_weights, parameters.means, {"factor": factor})


def oracle_approximating_shrinkage(covariance: Tensor, n: Tensor) -> Tensor:
    """Covariances (..., D, D), each estimated from n (...,) points, shrunk towards a multiple of the identity.

    The intensity is that of Chen, Wiesel, Eldar and Hero, "Shrinkage algorithms for MMSE covariance estimation" (2010),
    equation 23 (scikit-learn's `OAS` drops its terms in 2 / D). Unlike Ledoit and Wolf's it needs no fourth moments.
    """
    d = covariance.shape[-1]
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    of_square = covariance.square().sum((-2, -1))
    numerator = (1 - 2 / d) * of_square + trace.square()
    denominator = (n + 1 - 2 / d) * (of_square - trace.square() / d)
    # Equal eigenvalues: the matrix is a multiple of the identity already.
    tiny = torch.finfo(covariance.dtype).tiny
    intensity = torch.where(denominator > tiny, numerator / denominator.clamp_min(tiny), torch.ones_like(trace))
    intensity = intensity.clamp(0, 1)[..., None, None]
    identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return (1 - intensity) * covariance + intensity * (trace / d)[..., None, None] * identity
