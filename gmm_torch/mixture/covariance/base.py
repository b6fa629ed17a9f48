"""The contract that every covariance family keeps, and the EM that families linear in their features share."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from gmm_torch.devices import SPILL_POINTS, is_host
from gmm_torch.mixture.parameters import Parameters, where
from gmm_torch.registry import register

Factors = dict[str, Tensor]
FAMILIES: dict[str, type["CovarianceFamily"]] = {}  # by name

# A component whose share of the points is below this has no data to estimate anything from.
EMPTY_SHARE = 1e-12


class CovarianceFamily(ABC):
    """How the covariance matrices of K components in D dimensions are tied together, stored and estimated.

    A family holds no tensors: it is a set of formulas. What describes the matrices travels as `factors`, a mapping of
    names to tensors with optional leading batch dimensions (several mixtures at once).

    Two paths lead to a density. `squared_distance` centres each point on each mean before it whitens: accurate to the
    last digits, and what `log_prob` uses. EM uses the identity that log(w_k N(x | k)) is linear in fixed features of
    x (one, the features, products of two features): `features`, `log_joint` and `moments` are then one matrix product
    each. A family whose forms need too many products has none of them, and overrides `prepare`, `log_joint` and
    `moments`.

    Attributes:
        name: the value of `covariance_type` that selects the family; a class without one is a base for others.
        scales_features: whether rescaling single features maps the family onto itself. Where it does, EM works on
            data with every feature rescaled; where not, on one common scale.
        averages: whether `moments` mean the same under any parameters, so that those of several batches, each under its
            own, can be averaged.
        by_point: whether EM stores the features of a chunk point by point, which suits products with few components,
            and not feature by feature, which suits work on single features and keeps more digits of small products.
        shrinks: whether there is something for `shrink` to do.
        splits_components: whether single components can be evaluated in float64 beside others in float32.
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
        """The covariances in the family's natural shape, scikit-learn's `covariances_` where that has the family."""

    @abstractmethod
    def from_covariances(self, covariances: Tensor) -> Factors:
        """The factors of given `covariances` in the family's natural shape.

        Raises:
            ValueError: they are not finite, symmetric and positive definite.
        """

    def from_precisions(self, precisions: Tensor) -> Factors:
        """Likewise of given precisions, in the same shape; refused unless overridden.

        Raises:
            ValueError: no precision has the family's form, or see `from_covariances`.
        """
        raise ValueError(f"precisions_init: expected none for {self.name}; give means_init and weights_init alone")

    @abstractmethod
    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        """The covariances as full matrices (..., K, D, D)."""

    @abstractmethod
    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        """Standard normal `noise` (S, D) turned into deviations from the mean of `component` (S,); differentiable."""

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of all covariances together."""

    @abstractmethod
    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        """Factors of `scale * x` from those of x; scale is (D,), constant unless the family `scales_features`."""

    @abstractmethod
    def unconstrain(self, factors: Factors) -> Factors:
        """Tensors in which every real number is allowed, for storage that gradient steps may move."""

    @abstractmethod
    def constrain(self, raw: Factors) -> Factors:
        """The inverse of `unconstrain`."""

    @abstractmethod
    def unit(self, n_components: int, n_features: int) -> Factors:
        """Factors of unit covariances, on the host."""

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
        """Numbers that `log_joint` or `moments` work with for a point, beside its features and responsibilities."""
        return 0

    @abstractmethod
    def precision_times(self, vectors: Tensor, factors: Factors) -> Tensor:
        """P_k v_k for one vector a component: (..., K, D)."""

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
        """Factors in which the one-hot `component` (..., K) has the `fresh` ones of one component.

        A family that shares its covariance leaves it as it is.
        """
        return {name: where(component, value, factors[name]) for name, value in fresh.items()}

    # ---- EM for families linear in their features

    def features(self, columns: Tensor) -> Tensor:
        """What log w_k N(x | k) is linear in (1 + D + Q, n): one, the features (D, n) themselves, products."""
        return torch.cat([columns.new_ones(1, columns.shape[1]), columns, self.products(columns)])

    def complete(self, features: Tensor, n_features: int) -> Tensor:
        """`features`, in place, of points that stand in rows 1 to D of (1 + D + Q, n) already; not differentiable."""
        features[0] = 1
        self.products(features[1 : n_features + 1], out=features[n_features + 1 :])
        return features

    def prepare(self, parameters: Parameters, reg_covar: Tensor) -> Factors:
        """Everything of the E-step that does not depend on the points; `log_joint` takes it.

        `reg_covar` enters as the expected log-density under noise of that variance on the points,
        -1/2 tr(diag(reg_covar) P_k): with it the M-step that adds `reg_covar` is the exact maximiser, so the objective
        never falls. It is below the log-likelihood by a term of the regularisation's own size.

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
            prepared, features: what `prepare` and `features` gave.
            scratch: `n_scratch` numbers a point, or more, to work in; not differentiable then. Large tensors that come
                and go cost a CPU as much as computing with them: fresh pages.
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
            responsibilities: (..., K, n), each times the point's weight.
            out: earlier statistics to add these to, in place; not differentiable then.

        Returns:
            {"moments": (..., K, 1 + D + Q)}: sums of r_k times the features.
        """
        if out is None:
            return {"moments": weighted_sums(responsibilities, features)}
        flat = out["moments"].flatten(0, -2)
        flat.addmm_(responsibilities.flatten(0, -2), features.mT)
        return out

    def update(self, moments: Factors, reg_covar: Tensor, previous: Parameters) -> tuple[Parameters, Tensor]:
        """The M-step: parameters that maximise the expected log-likelihood, and the jitter (..., K) used.

        A component without points keeps its mean and covariance and gets (next to) no weight.
        """
        n_features = previous.means.shape[-1]
        table = moments["moments"]
        counts, linear = table[..., 0], table[..., 1 : n_features + 1]
        total = counts.sum(-1, keepdim=True)
        occupied = counts > EMPTY_SHARE * total
        safe_counts = torch.where(occupied, counts, torch.ones_like(counts))
        means = torch.where(occupied[..., None], linear / safe_counts[..., None], previous.means)
        factors, jitter = self.estimate(moments, means, safe_counts, reg_covar)
        factors = self.keep_empty(factors, previous.factors, occupied)
        share = torch.where(occupied, counts / total, torch.full_like(counts, EMPTY_SHARE))
        log_weights = (share / share.sum(-1, keepdim=True)).log()
        return Parameters(log_weights, means, factors), torch.where(occupied, jitter, torch.zeros_like(jitter))

    def start(self, moments: Factors, reg_covar: Tensor, previous: Parameters) -> tuple[Parameters, Tensor]:
        """The first M-step, after a hard assignment: it need not raise any likelihood."""
        return self.update(moments, reg_covar, previous)

    def shrink(self, parameters: Parameters, counts: Tensor) -> Parameters:
        """Covariances shrunk, for effective counts (..., K) of points; of a family that `shrinks`."""
        raise NotImplementedError(self.name)

    def keep_empty(self, factors: Factors, previous: Factors, occupied: Tensor) -> Factors:
        """`factors` for components that are `occupied` (..., K), `previous` ones for the rest."""
        return {name: where(occupied, value, previous[name]) for name, value in factors.items()}


def weighted_sums(weights: Tensor, columns: Tensor) -> Tensor:
    """Sums (..., F) of points, stored as columns (F, n), with weights (..., n).

    The chunks of an accelerator are large: of every `SPILL_POINTS` points there is a sum in the computing type, all of
    them in one batched product, and those are added in float64, which the result then has.
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
    """The first numbers of a flat tensor in this shape, for an operation's `out`; None if there is no such tensor."""
    return None if scratch is None else scratch[: math.prod(shape)].view(shape)
