"""Options of a fit, and the prior that they describe."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gmm_torch.checks import check_choice, check_count, check_whole, is_number
from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.init import get_initialisation
from gmm_torch.mixture.linear_algebra import log_normal
from gmm_torch.mixture.parameters import Parameters

__all__ = ["EMOptions", "Prior"]


@dataclass(frozen=True)
class EMOptions:
    """Options of a fit; names are scikit-learn's where it has them.

    Attributes:
        max_iter: largest number of EM iterations.
        tol: EM stops when the mean log-likelihood changes by less than this in an iteration.
        reg_covar: added to the diagonal of every covariance; at least 1e-10 of the variance.
        reg_mode: "relative": `reg_covar` is a fraction of each feature's variance (of a constant feature: of the
            geometric mean of the others'), and the E-step allows for it, so the objective never falls. "absolute":
            `reg_covar` is a variance and the E-step ignores it, as in scikit-learn; the log-likelihood can then fall by
            the regularisation's effect if a component collapses.
        n_init: number of restarts, run as one batch; the best is kept.
        prior_count: points like the data as a whole that every component has seen before; see `Prior`. The objective
            then includes the prior, divided by the number of points. With weights, a point of the prior has the mean of
            the positive weights.
        weight_concentration: Dirichlet parameter of the weights, >= 1, counted in the same points.
        shrinkage: "oas" shrinks the covariances of `full` and `tied`, the more the fewer points they have, see
            `oracle_approximating_shrinkage`; the objective can then fall.
        init_params: name of an initialisation, see `gmm_torch.mixture.init`.
        weights_init: (K,), initial weights.
        means_init: (K, D), initial means, instead of those of `init_params`.
        precisions_init: initial precisions, in the shape of the family's covariances.
        seed: seed of everything random.
    """

    max_iter: int = 100
    tol: float = 1e-3
    reg_covar: float = 1e-6
    reg_mode: Literal["relative", "absolute"] = "relative"
    prior_count: float = 0.0
    weight_concentration: float = 1.0
    shrinkage: Literal["oas"] | None = None
    n_init: int = 1
    init_params: str = "kmeans"
    weights_init: Tensor | None = None
    means_init: Tensor | None = None
    precisions_init: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("max_iter", self.max_iter)
        check_count("n_init", self.n_init)
        check_whole("seed", self.seed)
        lowest = {"tol": 0, "reg_covar": 0, "prior_count": 0, "weight_concentration": 1}
        for name, low in lowest.items():
            value = getattr(self, name)
            if not (is_number(value) and value >= low and math.isfinite(value)):
                raise ValueError(f"{name}: expected a finite number >= {low}; got {value!r}")
        check_choice("reg_mode", self.reg_mode, ("relative", "absolute"))
        if self.shrinkage is not None:
            check_choice("shrinkage", self.shrinkage, ("oas",))
        get_initialisation(self.init_params)


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
