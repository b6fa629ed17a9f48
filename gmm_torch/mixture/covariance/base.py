"""The contract of a covariance family, and the EM of families that are linear in their features."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from gmm_torch.devices import SPILL_POINTS, is_host
from gmm_torch.mixture.parameters import Parameters, where
from gmm_torch.registry import register

__all__ = ["FAMILIES", "CovarianceFamily", "Factors", "weighted_sums", "workspace_view"]

Factors = dict[str, Tensor]
FAMILIES: dict[str, type["CovarianceFamily"]] = {}  # by name

# A component with a smaller share of the points is not estimated.
_EMPTY_SHARE = 1e-12


class CovarianceFamily(ABC):
    """Formulas for storing, evaluating and estimating the covariance matrices of K components over D features.

    A family holds no tensors. The matrices travel as `factors`, a mapping of names to tensors with optional leading
    batch dimensions (several mixtures at once).

    There are two paths to a density. `squared_distance` centres each point on each mean before whitening, which is
    accurate to the last digit; `log_prob` uses it. In EM, log(w_k N(x | k)) is linear in fixed features of x (one, the
    features, products of two features), so `log_joint` and `moments` are one matrix product each. A family that would
    need too many products overrides `prepare`, `log_joint` and `moments`.

    Attributes:
        name: the value of `covariance_type` that selects the family; a class without one is a base class.
        scales_features: rescaling single features maps the family onto itself, so EM rescales every feature. Otherwise
            EM uses one common scale.
        splits_components: single components can be evaluated in float64 while the others stay in float32.
        averages: `moments` do not depend on the parameters, so those of several batches can be averaged.
        shrinks: the family implements `shrink`.
        by_point: EM stores a chunk's features point by point, which is faster for products with few components.
            Otherwise it stores them feature by feature, which keeps more digits of small products.
    """

    name: ClassVar[str]
    scales_features: ClassVar[bool] = True
    splits_components: ClassVar[bool] = True
    averages: ClassVar[bool] = True
    shrinks: ClassVar[bool] = False
    by_point: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        register(FAMILIES, cls)

    # ---- the matrices

    @abstractmethod
    def squared_distance(self, x: Tensor, means: Tensor, factors: Factors) -> Tensor:
        """Squared Mahalanobis distances (N, K) of x (N, D) to means (K, D)."""

    @abstractmethod
    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        """Logarithm of the determinant of the covariances, (..., K) or broadcastable to it."""

    @abstractmethod
    def covariances(self, factors: Factors, n_features: int) -> Tensor:
        """The covariances in the family's natural shape, the same as scikit-learn's `covariances_`."""

    @abstractmethod
    def from_covariances(self, covariances: Tensor) -> Factors:
        """Factors of `covariances` in their natural shape; ValueError unless finite, symmetric, positive definite."""

    def from_precisions(self, precisions: Tensor) -> Factors:
        """Factors of `precisions` in the shape of the covariances; raises ValueError as `from_covariances` does."""
        raise ValueError(f"precisions_init: expected none for {self.name}; give means_init and weights_init alone")

    @abstractmethod
    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        """The covariances as full matrices (..., K, D, D)."""

    @abstractmethod
    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        """Turn standard normal `noise` (S, D) into deviations from the mean of `component` (S,); differentiable."""

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters of all covariances."""

    @abstractmethod
    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        """Factors of `scale * x` from those of x; scale is (D,), constant unless the family `scales_features`."""

    @abstractmethod
    def unconstrain(self, factors: Factors) -> Factors:
        """Factors as unconstrained real numbers, for storage that gradient steps may change."""

    @abstractmethod
    def constrain(self, raw: Factors) -> Factors:
        """The inverse of `unconstrain`."""

    def unit(self, n_components: int, n_features: int) -> Factors:
        """Factors of unit covariances, on the default device."""
        fresh = self.fresh(torch.ones(n_features))
        return {name: value.expand(n_components, *value.shape).clone() for name, value in fresh.items()}

    # ---- the pieces of EM

    def products(self, columns: Tensor, out: Tensor | None = None) -> Tensor:
        """Quadratic features (Q, n) of points stored feature by feature, (D, n)."""
        return columns[:0] if out is None else out

    def n_products(self, n_features: int) -> int:
        """Q, the number of quadratic features."""
        return 0

    def quadratic(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        """Coefficients (..., K, Q) of `products` in the quadratic forms x' P_k x, P_k the precisions."""
        none = self.precision_diagonal(factors, n_features)[..., :0]
        return none.expand(*none.shape[:-2], n_components, 0)

    def n_scratch(self, n_mixtures: int, n_components: int, n_features: int, device: torch.device) -> int:
        """Scratch numbers per point that `log_joint` or `moments` need."""
        return 0

    @abstractmethod
    def precision_times(self, vectors: Tensor, factors: Factors) -> Tensor:
        """P_k v_k for one vector per component, (..., K, D)."""

    @abstractmethod
    def precision_diagonal(self, factors: Factors, n_features: int) -> Tensor:
        """Diagonals of the precisions, broadcastable to (..., K, D)."""

    @abstractmethod
    def precision_norm(self, factors: Factors, n_features: int) -> Tensor:
        """Frobenius norms of the precisions, broadcastable to (..., K)."""

    @abstractmethod
    def estimate(self, moments: Factors, means: Tensor, counts: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        """Maximum-likelihood factors from summed statistics.

        Args:
            moments: what `moments` returned, summed over all points.
            means: (..., K, D), the new means.
            counts: (..., K), effective counts N_k of points (summed responsibilities), positive.
            reg_covar: (D,), added to the diagonal of every covariance.

        Returns:
            the factors, and the jitter (..., K) that it took to factorise them.
        """

    @abstractmethod
    def fresh(self, variance: Tensor) -> Factors:
        """Factors of one component with the diagonal covariance `variance` (D,); may draw them on the host."""

    def replace(self, factors: Factors, component: Tensor, fresh: Factors) -> Factors:
        """Factors with the one-hot `component` (..., K) set to `fresh`; a shared covariance stays unchanged."""
        return {name: where(component, value, factors[name]) for name, value in fresh.items()}

    # ---- EM for families linear in their features

    def features(self, columns: Tensor) -> Tensor:
        """Terms that log w_k N(x | k) is linear in, (1 + D + Q, n): one, the columns (D, n), products."""
        return torch.cat([columns.new_ones(1, columns.shape[1]), columns, self.products(columns)])

    def prepare(self, parameters: Parameters, reg_covar: Tensor) -> Factors:
        """The part of the E-step that does not depend on the points, for `log_joint`.

        `reg_covar` adds the penalty -1/2 tr(diag(reg_covar) P_k), the expected effect of noise of that variance. With
        it, the M-step that adds `reg_covar` maximises the objective exactly, so the objective never falls.

        Returns:
            {"natural": (..., K, 1 + D + Q)} in the parameters' dtype.
        """
        means, factors = parameters.means, parameters.factors
        n_components, n_features = means.shape[-2:]
        linear = self.precision_times(means, factors)
        penalty = (self.precision_diagonal(factors, n_features) * reg_covar).sum(-1)
        log_norm = -0.5 * (n_features * math.log(2 * math.pi) + self.log_det(factors, n_features))
        constant = parameters.log_weights + log_norm - 0.5 * ((means * linear).sum(-1) + penalty)
        quadratic = -0.5 * self.quadratic(factors, n_components, n_features)
        return {"natural": torch.cat([constant[..., None], linear, quadratic], dim=-1)}

    def log_joint(self, prepared: Factors, features: Tensor, scratch: Tensor | None = None) -> Tensor:
        """log w_k + log N(x | k), less `reg_covar`'s penalty: (..., K, n).

        Args:
            prepared, features: from `prepare` and `features`.
            scratch: working memory of at least `n_scratch` numbers per point; not differentiable then. Allocating
                large tensors for every chunk would cost a CPU as much time as computing with them.
        """
        natural = prepared["natural"]
        result: Tensor = (natural.flatten(0, -2) @ features).unflatten(0, natural.shape[:-1])
        return result

    def moments(
        self,
        prepared: Factors,
        features: Tensor,
        responsibilities: Tensor,
        out: Factors | None = None,
        scratch: Tensor | None = None,
    ) -> Factors:
        """Sufficient statistics of weighted points.

        Args:
            prepared, features, scratch: see `log_joint`.
            responsibilities: (..., K, n), times the points' weights.
            out: earlier statistics, to which these are added in place; not differentiable then.

        Returns:
            {"moments": (..., K, 1 + D + Q)}: sums of r_k times the features.
        """
        if out is None:
            return {"moments": weighted_sums(responsibilities, features)}
        flat = out["moments"].flatten(0, -2)
        flat.addmm_(responsibilities.flatten(0, -2), features.mT)
        return out

    def update(self, moments: Factors, reg_covar: Tensor, previous: Parameters) -> tuple[Parameters, Tensor]:
        """The M-step: maximising parameters and the jitter (..., K) used.

        A component without points keeps its mean and covariance and gets almost no weight.
        """
        n_features = previous.means.shape[-1]
        table = moments["moments"]
        counts, linear = table[..., 0], table[..., 1 : n_features + 1]
        total = counts.sum(-1, keepdim=True)
        occupied = counts > _EMPTY_SHARE * total
        safe_counts = torch.where(occupied, counts, torch.ones_like(counts))
        means = torch.where(occupied[..., None], linear / safe_counts[..., None], previous.means)
        factors, jitter = self.estimate(moments, means, safe_counts, reg_covar)
        factors = self.keep_empty(factors, previous.factors, occupied)
        share = torch.where(occupied, counts / total, torch.full_like(counts, _EMPTY_SHARE))
        log_weights = (share / share.sum(-1, keepdim=True)).log()
        return Parameters(log_weights, means, factors), torch.where(occupied, jitter, torch.zeros_like(jitter))

    def start(self, moments: Factors, reg_covar: Tensor, previous: Parameters) -> tuple[Parameters, Tensor]:
        """The first M-step, after a hard assignment; it may lower the likelihood."""
        return self.update(moments, reg_covar, previous)

    def shrink(self, parameters: Parameters, counts: Tensor) -> Parameters:
        """Parameters with shrunk covariances, for effective counts (..., K) of points; needs `shrinks`."""
        raise NotImplementedError(self.name)

    def keep_empty(self, factors: Factors, previous: Factors, occupied: Tensor) -> Factors:
        """`factors` for `occupied` (..., K) components, `previous` for the rest."""
        return {name: where(occupied, value, previous[name]) for name, value in factors.items()}


def weighted_sums(weights: Tensor, columns: Tensor) -> Tensor:
    """Sums (..., F) of points, stored as columns (F, n), with weights (..., n).

    An accelerator's chunks are large: sums of `SPILL_POINTS` points each are taken in the computing type, in one
    batched product, and added in float64, the type of the result.
    """
    n = columns.shape[-1]
    n_sums = 1 if is_host(columns.device) else -(-n // SPILL_POINTS)
    if n_sums <= 1:
        return weights @ columns.mT
    size = n // n_sums
    whole = n_sums * size
    flat = weights.flatten(0, -2)
    left = flat[:, :whole].unflatten(1, (n_sums, size)).movedim(1, 0)
    right = columns[:, :whole].unflatten(1, (n_sums, size)).movedim(1, 0)
    total = (left @ right.mT).sum(0, dtype=torch.float64)
    if whole < n:
        total = total + flat[:, whole:] @ columns[:, whole:].mT
    result: Tensor = total.view(*weights.shape[:-1], -1)
    return result


def workspace_view(scratch: Tensor | None, *shape: int) -> Tensor | None:
    """The first numbers of `scratch` in this shape, for an operation's `out`; None without scratch."""
    return None if scratch is None else scratch[: math.prod(shape)].view(shape)
