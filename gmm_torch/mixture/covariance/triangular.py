"""What families of covariance matrices share that are stored as triangular factors of the precisions."""

import torch
from torch import Tensor

from gmm_torch.mixture.covariance.base import CovarianceFamily, Factors
from gmm_torch.mixture.linear_algebra import covariance_factor, log_det_of_factor, precision_factor, times_transpose
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.positive_definite import checked_factor_of_precision, checked_precision_factor
from gmm_torch.mixture.shrinkage import oracle_approximating_shrinkage


class Triangular(CovarianceFamily):
    """Factors: {"factor": (..., D, D)}, upper triangular U with U U' a precision."""

    shrinks = True

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        """(...,), one for each matrix."""
        return -log_det_of_factor(factors["factor"])

    def covariances(self, factors: Factors, n_features: int) -> Tensor:
        """(..., D, D)."""
        return times_transpose(covariance_factor(factors["factor"]))

    def from_covariances(self, covariances: Tensor) -> Factors:
        """From (..., D, D)."""
        return {"factor": checked_precision_factor(covariances, "covariances")}

    def from_precisions(self, precisions: Tensor) -> Factors:
        """From symmetric positive-definite matrices."""
        return {"factor": checked_factor_of_precision(precisions, "precisions")}

    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        """Rows of U divided by the scale."""
        return {"factor": factors["factor"] / scale[:, None]}

    def unconstrain(self, factors: Factors) -> Factors:
        """The diagonal as logarithms."""
        upper = factors["factor"]
        return {"factor": upper.triu(1) + torch.diag_embed(upper.diagonal(dim1=-2, dim2=-1).log())}

    def constrain(self, raw: Factors) -> Factors:
        """The diagonal as exponentials."""
        diagonal = torch.diag_embed(raw["factor"].diagonal(dim1=-2, dim2=-1).exp())
        # A choice is one pass over what has to be read anyway; `triu` of many matrices is slow on a CPU.
        above = torch.ones(diagonal.shape[-2:], dtype=torch.bool, device=diagonal.device).triu(1)
        return {"factor": torch.where(above, raw["factor"], diagonal)}

    def precision_diagonal(self, factors: Factors, n_features: int) -> Tensor:
        """(..., D)."""
        return factors["factor"].square().sum(-1)

    def precision_norm(self, factors: Factors, n_features: int) -> Tensor:
        """(...,)."""
        result: Tensor = torch.linalg.matrix_norm(factors["factor"] @ factors["factor"].mT)
        return result

    def factorise(self, covariance: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        """Factors of estimated covariances (..., D, D) plus `reg_covar` (D,), and the jitter (...,) that it took."""
        # Rounding can leave a variance below zero; `reg_covar` is added to what is left.
        negative = covariance.diagonal(dim1=-2, dim2=-1).clamp_max(0)
        factor, jitter = precision_factor(covariance + torch.diag_embed(reg_covar - negative))
        return {"factor": factor}, jitter

    def fresh(self, variance: Tensor) -> Factors:
        """U = diag(1 / sqrt(variance))."""
        return {"factor": torch.diag_embed(variance.rsqrt())}

    def shrink(self, parameters: Parameters, counts: Tensor) -> Parameters:
        """Each matrix by the number of points that it is estimated from."""
        covariances = self.covariances(parameters.factors, parameters.means.shape[-1])
        n = counts if covariances.dim() > counts.dim() + 1 else counts.sum(-1)  # a matrix for each component, or one
        factor, _ = precision_factor(oracle_approximating_shrinkage(covariances, n))
        return Parameters(parameters.log_weights, parameters.means, {"factor": factor})
