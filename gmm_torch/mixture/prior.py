"""A conjugate prior, expressed as points that every component has seen before the data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.densities import log_normal
from gmm_torch.mixture.parameters import Parameters

__all__ = ["Prior"]


@dataclass(frozen=True)
class Prior:
    """Normal-inverse-Wishart for means and covariances, Dirichlet for weights; parameters become posterior modes.

    Every component starts with `count` points, spread like N(0, diag(variance)) in standardised coordinates, where the
    data have mean zero. This is the normal-inverse-Wishart prior with mean 0, count of the mean `count`, degrees of
    freedom count - D - 2 and scale matrix count * diag(variance), see Fraley and Raftery, "Bayesian regularization for
    normal mixture estimation" (2007). The weights' Dirichlet parameter is `concentration`.
    """

    count: float
    concentration: float  # >= 1; 1 leaves the weights at their maximum likelihood
    variance: Tensor  # (D,)

    @property
    def matters(self) -> bool:
        """True if the prior changes a fit."""
        return self.count > 0 or self.concentration > 1

    def add(self, family: CovarianceFamily, moments: Factors, parameters: Parameters, reg_covar: Tensor) -> Factors:
        """Statistics of the data (..., K) and of the prior's points."""
        if self.count == 0:
            return moments
        n_features = len(self.variance)
        # 2 D points on the axes have mean 0 and these variances.
        axes = torch.diag_embed((n_features * self.variance).sqrt())
        prepared = family.prepare(parameters, reg_covar)
        share = parameters.means.new_full((*parameters.means.shape[:-1], 2 * n_features), self.count / (2 * n_features))
        own = family.moments(prepared, family.features(torch.cat([axes, -axes], dim=1)), share)
        return {name: value + own[name] if name in own else value for name, value in moments.items()}

    def weigh(self, updated: Parameters, counts: Tensor) -> Parameters:
        """`updated` with weights at their posterior mode, for effective counts (..., K) of the data."""
        if not self.matters:
            return updated
        # The floor lets an empty component recover.
        posterior = (counts + self.concentration - 1).clamp_min(1e-12 * counts.sum(-1, keepdim=True))
        return Parameters((posterior / posterior.sum(-1, keepdim=True)).log(), updated.means, updated.factors)

    def log_density(self, family: CovarianceFamily, parameters: Parameters, reg_covar: Tensor) -> Tensor:
        """Logarithm of the prior's density up to a constant, (...,)."""
        means, factors = parameters.means, parameters.factors
        n_features = means.shape[-1]
        diagonal = family.precision_diagonal(factors, n_features)
        distance = (means * family.precision_times(means, factors)).sum(-1)
        distance = distance + (diagonal * (self.variance + reg_covar)).sum(-1)
        expected = log_normal(distance, family.log_det(factors, n_features), n_features)
        return (self.count * expected + (self.concentration - 1) * parameters.log_weights).sum(-1)
