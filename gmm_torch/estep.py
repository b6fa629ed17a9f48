"""The E-step: from points to sufficient statistics, chunk by chunk, in two matrix products a chunk."""

import torch
from torch import Tensor

from gmm_torch.covariance import CovarianceFamily, Factors
from gmm_torch.init.base import squared_distances
from gmm_torch.parameters import Parameters
from gmm_torch.statistics import Statistics
from gmm_torch.survey import Standardisation

# Bytes of features alive at once: they should stay in a CPU's last-level cache, and keep a GPU busy.
FEATURE_BYTES = {"cpu": 2**25, "cuda": 2**29}
# Sums in the computing type are moved to float64 after this many points.
SPILL_POINTS = 2**14
# Estimated error of a float32 quadratic form, in nats, above which a component is evaluated in float64.
TIGHT_NATS = 3e-4


class EStep:
    """Statistics of points under fixed parameters of R mixtures.

    Features and densities are computed in `dtype`, about the origin of the standardised data. That is exact enough
    until a component is so tight that its quadratic forms cancel: those components are evaluated in float64, alone
    where the family allows it.

    Args:
        family: the covariance family.
        parameters: float64, leading dimension R.
        ridge: (D,) float64, see `CovarianceFamily.prepare`.
        standardisation: maps raw points to the parameters' coordinates.
        dtype: the computing type, float32 or float64.
    """

    def __init__(
        self,
        family: CovarianceFamily,
        parameters: Parameters,
        ridge: Tensor,
        standardisation: Standardisation,
        dtype: torch.dtype,
        tight: Tensor | None = None,
    ) -> None:
        self.family = family
        self.parameters = parameters
        self.standardisation = standardisation
        self.n_init, self.n_components, self.n_features = parameters.means.shape
        n_all = self.n_init * self.n_components
        tight = torch.empty(0, dtype=torch.long) if tight is None else tight
        wide = dtype == torch.float64 or (not family.splits_components and len(tight) > 0)
        self.dtype = torch.float64 if wide or len(tight) > n_all // 2 else dtype
        self.tight = tight[:0] if self.dtype == torch.float64 else tight
        exact = family.prepare(parameters, ridge)
        self.prepared = {name: value.to(self.dtype) for name, value in exact.items()}
        self.tight_rows = exact["natural"].flatten(0, -2)[self.tight] if len(self.tight) else None

    # ---- what a pass does to a chunk

    def responsibilities(self, z: Tensor, features: Tensor, wide_features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Responsibilities (R, K, n) and objective (R, n) of a chunk."""
        joint = self.family.log_joint(self.prepared, features)
        if self.tight_rows is not None and wide_features is not None:
            joint.flatten(0, -2)[self.tight] = (self.tight_rows @ wide_features).to(self.dtype)
        peak = joint.amax(-2, keepdim=True)
        joint.sub_(peak).exp_()
        total = joint.sum(-2, keepdim=True)
        joint.mul_(total.reciprocal())
        return joint, (peak + total.log_())[..., 0, :]

    # ---- the loop

    def __call__(self, x: Tensor, weight: Tensor | None = None) -> Statistics:
        """Statistics of raw points x (n, D) with weights (n,) >= 0 or None for ones; n may be zero."""
        total = self.zero()
        for start in range(0, len(x), SPILL_POINTS):
            block = slice(start, start + SPILL_POINTS)
            total = total + self._block(x[block], None if weight is None else weight[block])
        return total

    def zero(self) -> Statistics:
        """The statistics of no points."""
        means = self.parameters.means
        nothing = means.new_zeros(self.n_init)
        moments = {name: value.double() for name, value in self._zero_moments().items()}
        worst = torch.full_like(nothing, torch.inf)
        return Statistics(nothing.sum(), nothing, moments, worst, means.new_zeros(self.n_init, self.n_features))

    def _zero_moments(self) -> Factors:
        device = self.parameters.means.device
        features = torch.zeros(self._width, 0, dtype=self.dtype, device=device)
        nobody = torch.zeros(self.n_init, self.n_components, 0, dtype=self.dtype, device=device)
        return self.family.moments(self.prepared, features, nobody)

    @property
    def _width(self) -> int:
        return self.family.n_products(self.n_features) + self.n_features + 1

    def _block(self, x: Tensor, weight: Tensor | None) -> Statistics:
        """Statistics of few enough points for their sums to be taken in the computing type."""
        moments = self._zero_moments()
        tight_moments = None if self.tight_rows is None else torch.zeros_like(self.tight_rows)
        mass = x.new_tensor(len(x), dtype=torch.float64) if weight is None else weight.sum(dtype=torch.float64)
        log_likelihoods, points = [], []
        itemsize = torch.finfo(self.dtype).bits // 8
        columns_alive = self._width + 2 * self.n_init * self.n_components
        step = FEATURE_BYTES[x.device.type] // (itemsize * columns_alive)
        step = max(64, min(step, len(x)))
        buffer = torch.empty(self._width * min(step, len(x)), dtype=self.dtype, device=x.device)
        for start in range(0, len(x), step):
            part = x[start : start + step]
            z = self.standardisation.apply(part, self.dtype)
            out = buffer[: self._width * len(z)].view(self._width, len(z))
            features = self.family.features(z.mT.contiguous(), out=out)
            wide_features = None
            if self.tight_rows is not None:
                wide = self.standardisation.apply(part, torch.float64)
                wide_features = self.family.features(wide.mT.contiguous())
            joint, objective = self.responsibilities(z, features, wide_features)
            if weight is not None:
                w = weight[start : start + step].to(self.dtype)
                joint.mul_(w)
            self.family.moments(self.prepared, features, joint, out=moments)
            if tight_moments is not None and wide_features is not None:
                tight_moments += joint.flatten(0, -2)[self.tight].double() @ wide_features.mT
            log_likelihoods.append(objective)
            points.append(z)
        objective = torch.cat(log_likelihoods, dim=-1).double()  # (R, n)
        moments = {name: value.double() for name, value in moments.items()}
        if tight_moments is not None:
            moments["moments"].flatten(0, -2)[self.tight] = tight_moments
        if weight is None:
            candidate = objective
            log_likelihood = objective.sum(-1)
        else:
            candidate = objective.masked_fill(weight <= 0, torch.inf)
            log_likelihood = objective @ weight.double()
        worst, where = candidate.min(-1)
        worst_point = torch.cat(points)[where].double()
        return Statistics(mass, log_likelihood, moments, worst, worst_point)


class Assignment(EStep):
    """Hard assignment of every point to the nearest of the means, for the start; the objective is zero."""

    def responsibilities(self, z: Tensor, features: Tensor, wide_features: Tensor | None) -> tuple[Tensor, Tensor]:
        """One-hot responsibilities (R, K, n), and zeros (R, n)."""
        nearest = squared_distances(z, self.parameters.means.to(z.dtype)).argmin(-2, keepdim=True)  # (R, 1, n)
        component = torch.arange(self.n_components, device=z.device)[:, None]
        return (nearest == component).to(z.dtype), z.new_zeros(self.n_init, len(z))


def tight_components(family: CovarianceFamily, parameters: Parameters) -> Tensor:
    """Flat indices (over R and K) of the components whose float32 quadratic forms would lose too many digits.

    The error of a sum of products grows with the norm of the precision and the distance of the component from the
    origin; the rule was held against float64 on features of a CIFAR-10 classifier, where it is an upper estimate.
    """
    n_features = parameters.means.shape[-1]
    norm = family.precision_norm(parameters.factors, n_features)
    distance = (parameters.means.square().sum(-1) + n_features).sqrt()
    error = torch.finfo(torch.float32).eps * norm * distance
    return (error > TIGHT_NATS).flatten().nonzero()[:, 0]
