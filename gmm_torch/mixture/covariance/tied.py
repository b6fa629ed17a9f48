"""One covariance matrix shared by all components."""

import torch
from torch import Tensor

from gmm_torch.mixture.covariance.base import Factors, weighted_sums, workspace_view
from gmm_torch.mixture.covariance.triangular import Triangular
from gmm_torch.mixture.linear_algebra import covariance_factor
from gmm_torch.mixture.parameters import Parameters

__all__ = ["Tied"]


class Tied(Triangular):
    """Factors: {"factor": (..., D, D)}, upper triangular U with U U' the shared precision.

    The quadratic term is the same for all components, so it is computed once per point. Responsibilities sum to one,
    so the scatter of all points about the origin replaces K second moments.
    """

    name = "tied"
    splits_components = False

    def squared_distance(self, x: Tensor, means: Tensor, factors: Factors) -> Tensor:
        white = x @ factors["factor"]
        white_means = means @ factors["factor"]
        return (white[:, None] - white_means).square().sum(-1)

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        return super().log_det(factors, n_features)[..., None]

    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        shared = self.covariances(factors, n_features)[..., None, :, :]
        return shared.expand(*shared.shape[:-3], n_components, n_features, n_features)

    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        return noise @ covariance_factor(factors["factor"]).mT

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def unit(self, n_components: int, n_features: int) -> Factors:
        return {"factor": torch.eye(n_features)}

    def n_scratch(self, n_mixtures: int, n_components: int, n_features: int, device: torch.device) -> int:
        return n_mixtures * n_features

    def precision_times(self, vectors: Tensor, factors: Factors) -> Tensor:
        return vectors @ factors["factor"] @ factors["factor"].mT

    def precision_diagonal(self, factors: Factors, n_features: int) -> Tensor:
        return super().precision_diagonal(factors, n_features)[..., None, :]

    def precision_norm(self, factors: Factors, n_features: int) -> Tensor:
        return super().precision_norm(factors, n_features)[..., None]

    def prepare(self, parameters: Parameters, reg_covar: Tensor) -> Factors:
        return super().prepare(parameters, reg_covar) | {"factor": parameters.factors["factor"]}

    def log_joint(self, prepared: Factors, features: Tensor, scratch: Tensor | None = None) -> Tensor:
        factor, columns = prepared["factor"], features[1:]
        white = torch.matmul(factor.mT, columns, out=workspace_view(scratch, *factor.shape[:-1], columns.shape[1]))
        shared = torch.square(white, out=None if scratch is None else white).sum(-2, keepdim=True)
        return super().log_joint(prepared, features).sub_(shared, alpha=0.5)  # in place: fresh pages

    def moments(
        self,
        prepared: Factors,
        features: Tensor,
        responsibilities: Tensor,
        out: Factors | None = None,
        scratch: Tensor | None = None,
    ) -> Factors:
        # {"moments": (..., K, 1 + D), "scatter": (..., D, D)}, the latter of all points about the origin.
        columns = features[1:]
        weight = responsibilities.sum(-2, keepdim=True)
        view = workspace_view(scratch, *weight.shape[:-2], *columns.shape)
        weighted = torch.mul(columns, weight, out=view)  # (..., D, n)
        scatter = weighted_sums(weighted, columns)
        result = super().moments(prepared, features, responsibilities, out)
        if out is None:
            return result | {"scatter": scatter}
        out["scatter"] += scatter
        return out

    def estimate(self, moments: Factors, means: Tensor, counts: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        exact_counts = moments["moments"][..., 0]  # `counts` is one for a component without points
        between = (means * exact_counts[..., None]).mT @ means
        covariance = (moments["scatter"] - between) / exact_counts.sum(-1)[..., None, None]
        factors, jitter = self.factorise(covariance, reg_covar)
        return factors, jitter[..., None].expand(counts.shape)

    def replace(self, factors: Factors, component: Tensor, fresh: Factors) -> Factors:
        return factors

    def keep_empty(self, factors: Factors, previous: Factors, occupied: Tensor) -> Factors:
        return factors
