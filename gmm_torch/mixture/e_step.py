"""The E-step: from points to sufficient statistics, chunk by chunk, in two matrix products per chunk."""

from collections.abc import Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor

from gmm_torch.devices import SPILL_POINTS, is_host, rows_at_once
from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.data_summary import Standardisation
from gmm_torch.mixture.init.base import assign
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.statistics import Statistics

__all__ = ["Assignment", "EStep", "are_ill_conditioned", "flagged"]

# Smaller chunks would spend their time on starting operations.
_MIN_CHUNK = 256
# Smallest log-ratio to the largest term. Smaller ratios would be slow subnormal numbers that change no digit of a sum.
_LOG_NOTHING = -80.0
# Error of a float32 quadratic form, in nats per feature, above which a component is evaluated in float64. A
# log-likelihood is a nat or two per feature, so this is below a hundred-thousandth of it; many iterations can multiply
# it by ten.
_ILL_CONDITIONED_NATS = 7.5e-6

_Workspace = tuple[Tensor | None, Tensor | None, Tensor | None]  # for features, features in float64, and scratch


class EStep:
    """Statistics of points under fixed parameters of R mixtures.

    Densities and sums are computed in `dtype`. A component whose second moment would cancel against its mean is
    ill-conditioned and evaluated in float64, alone if the family allows it.

    Args:
        parameters: float64, leading dimension R.
        reg_covar: (D,) float64, see `CovarianceFamily.prepare`.
        standardisation: maps raw points to the parameters' coordinates.
        dtype: float32 or float64.
        ill_conditioned: flat indices over R and K of the ill-conditioned components.
    """

    def __init__(
        self,
        family: CovarianceFamily,
        parameters: Parameters,
        reg_covar: Tensor,
        standardisation: Standardisation,
        dtype: torch.dtype,
        ill_conditioned: Tensor | None = None,
    ) -> None:
        self.family = family
        self.parameters = parameters
        self.standardisation = standardisation
        self.n_init, self.n_components, self.n_features = parameters.means.shape
        n_all = self.n_init * self.n_components
        n_ill_conditioned = 0 if ill_conditioned is None else len(ill_conditioned)
        wide = dtype == torch.float64 or (not family.splits_components and n_ill_conditioned > 0)
        self.dtype = torch.float64 if wide or n_ill_conditioned > n_all // 2 else dtype
        self.prepared = {name: value.to(self.dtype) for name, value in family.prepare(parameters, reg_covar).items()}
        self.ill_conditioned: tuple[Tensor, Tensor] | None = None
        if ill_conditioned is not None and n_ill_conditioned and self.dtype != torch.float64:
            self.ill_conditioned = (ill_conditioned // self.n_components, ill_conditioned % self.n_components)
            self.wide_prepared = family.prepare(parameters.map(lambda value: value[self.ill_conditioned]), reg_covar)
        self._n_rows = family.n_products(self.n_features) + self.n_features + 1
        device = parameters.means.device
        self._n_scratch = family.n_scratch(self.n_init, self.n_components, self.n_features, device)
        alive = (3 if self.ill_conditioned else 1) * self._n_rows + 2 * n_all + self._n_scratch
        self._chunk = rows_at_once(device, alive * self.dtype.itemsize, _MIN_CHUNK)

    def responsibilities(
        self, features: Tensor, wide_features: Tensor | None, scratch: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Responsibilities (R, K, n) and objective (R, n) of a chunk."""
        joint = self.family.log_joint(self.prepared, features, scratch)
        if wide_features is not None:
            joint[self.ill_conditioned] = self.family.log_joint(self.wide_prepared, wide_features).to(self.dtype)
        if not is_host(joint.device):
            # An accelerator is fast on subnormal numbers but slow on extra operations and passes over memory.
            share = joint.softmax(-2)
            return share, joint.amax(-2) - share.amax(-2).log()
        peak = joint.amax(-2, keepdim=True)
        joint.sub_(peak).clamp_min_(_LOG_NOTHING).exp_()
        total = joint.sum(-2, keepdim=True)
        joint.mul_(total.reciprocal())
        return joint, (peak + total.log_())[..., 0, :]

    def __call__(self, x: Tensor, weight: Tensor | None = None) -> Statistics:
        """Statistics of raw points x (n, D) with weights (n,) >= 0 or None for ones; n may be zero."""
        if not len(x):
            return self.zero()
        if not is_host(x.device):
            return reduce(add, (self.chunk(*part) for part in _equal_chunks(x, weight, self._chunk)))
        # Memory for a chunk, reused for the whole pass because fresh memory is slow on a CPU.
        step = min(self._chunk, len(x), SPILL_POINTS)
        workspace = (
            x.new_empty(self._n_rows * step, dtype=self.dtype),
            x.new_empty(self._n_rows * step, dtype=torch.float64) if self.ill_conditioned else None,
            x.new_empty(self._n_scratch * step, dtype=self.dtype),
        )
        blocks = (slice(start, start + SPILL_POINTS) for start in range(0, len(x), SPILL_POINTS))
        return reduce(
            add, (self._block(x[rows], None if weight is None else weight[rows], step, workspace) for rows in blocks)
        )

    def zero(self) -> Statistics:
        """The statistics of no points."""
        means = self.parameters.means
        nothing = means.new_zeros(self.n_init)
        moments = {name: value.double() for name, value in self._zero_moments(self.prepared).items()}
        worst = torch.full_like(nothing, torch.inf)
        nowhere = means.new_zeros(self.n_init, self.n_features)
        return Statistics(nothing.sum(), nothing, moments, worst, nowhere, torch.ones_like(nothing))

    def _zero_moments(self, prepared: Factors) -> Factors:
        some = next(iter(prepared.values()))
        lead: tuple[int, ...] = (self.n_init, self.n_components)
        if self.ill_conditioned is not None and prepared is not self.prepared:
            lead = self.ill_conditioned[0].shape
        return self.family.moments(prepared, some.new_zeros(self._n_rows, 0), some.new_zeros(*lead, 0))

    def _block(self, x: Tensor, weight: Tensor | None, step: int, workspace: _Workspace) -> Statistics:
        """Statistics of at most `SPILL_POINTS` points, summed in the computing type on a CPU."""
        moments = self._zero_moments(self.prepared)
        wide_moments = self._zero_moments(self.wide_prepared) if self.ill_conditioned else None
        objectives = []
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            own = None if weight is None else weight[rows]
            objectives.append(self._sums(x[rows], own, moments, wide_moments, workspace)[0])
        return self._statistics(x, weight, torch.cat(objectives, dim=-1), moments, wide_moments)

    def chunk(self, x: Tensor, weight: Tensor | None) -> Statistics:
        """Statistics of points x (n, D), with weights (n,) or None, in as few operations as possible.

        No operation depends on values, so it can be compiled, and captured in a CUDA graph.
        """
        return self._statistics(x, weight, *self._sums(x, weight))

    def _sums(
        self,
        x: Tensor,
        weight: Tensor | None,
        moments: Factors | None = None,
        wide_moments: Factors | None = None,
        workspace: _Workspace = (None, None, None),
    ) -> tuple[Tensor, Factors, Factors | None]:
        """Objective (R, n) and moments of a chunk, also of the ill-conditioned components in float64.

        They are added in place to earlier moments, if given.
        """
        buffer, wide_buffer, scratch = workspace
        features, wide_features = self._features(x, self.dtype, buffer), None
        if self.ill_conditioned is not None:
            # Narrower points are standardised in float32, so copy the columns.
            columns = None if x.dtype == torch.float64 else features[1 : self.n_features + 1]
            wide_features = self._features(x, torch.float64, wide_buffer, columns)
        joint, objective = self.responsibilities(features, wide_features, scratch)
        if weight is not None:
            joint.mul_(weight.to(self.dtype))
        moments = self.family.moments(self.prepared, features, joint, moments, scratch)
        if wide_features is not None:
            own = joint[self.ill_conditioned].double()
            wide_moments = self.family.moments(self.wide_prepared, wide_features, own, wide_moments)
        return objective, moments, wide_moments

    def _features(
        self, x: Tensor, dtype: torch.dtype, buffer: Tensor | None = None, columns: Tensor | None = None
    ) -> Tensor:
        """Features (1 + D + Q, n) of x (n, D), in the buffer if given; `columns` (D, n) is x already standardised."""
        if torch.compiler.is_compiling():  # it fuses the parts, and needs an `out` in one block of memory
            return self.family.features(self.standardisation.columns(x, dtype))
        size = self._n_rows * len(x)
        flat = x.new_empty(size, dtype=dtype) if buffer is None else buffer[:size]
        features = flat.view(len(x), -1).mT if self.family.by_point else flat.view(-1, len(x))
        place = features[1 : self.n_features + 1]
        if columns is None:
            self.standardisation.columns(x, dtype, out=place)
        else:
            place.copy_(columns)
        features[0] = 1
        self.family.products(place, out=features[self.n_features + 1 :])
        return features

    def _statistics(
        self, x: Tensor, weight: Tensor | None, objective: Tensor, moments: Factors, wide_moments: Factors | None
    ) -> Statistics:
        """Statistics from objective (R, n) and moments; `wide_moments` replace those of ill-conditioned components."""
        objective = objective.double()
        moments = {name: value.double() for name, value in moments.items()}
        for name, value in (wide_moments or {}).items():
            moments[name][self.ill_conditioned] = value
        if weight is None:
            total_weight = objective.new_full((), len(x))
            candidate = objective
            log_likelihood = objective.sum(-1)
        else:
            total_weight = weight.sum(dtype=torch.float64)
            candidate = objective.masked_fill(weight <= 0, torch.inf)
            log_likelihood = objective @ weight.double()
        worst, where = candidate.min(-1)
        worst_point = self.standardisation.apply(x[where], torch.float64)
        worst_weight = torch.ones_like(worst) if weight is None else weight[where].double()
        return Statistics(total_weight, log_likelihood, moments, worst, worst_point, worst_weight)


class Assignment(EStep):
    """Assignment of every point to the nearest of the initial means; the objective is zero."""

    def responsibilities(
        self, features: Tensor, wide_features: Tensor | None, scratch: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Responsibilities (R, K, n), one-hot but for ties, and zeros (R, n)."""
        columns = features[1 : self.n_features + 1]
        _, share = assign(columns.mT, self.parameters.means.to(self.dtype))
        return share.mT.contiguous(), columns.new_zeros(self.n_init, columns.shape[1])


def _equal_chunks(x: Tensor, weight: Tensor | None, largest: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Chunks of one size, up to `largest`, so that one compiled program serves all.

    The last one repeats points of the one before, with weight zero.
    """
    n = len(x)
    size = -(-n // max(1, -(-n // largest)))
    for start in range(0, n, max(1, size)):
        again = max(0, start + size - n)
        rows = slice(start - again, start - again + size)
        own = None if weight is None else weight[rows]
        if again:
            is_new = (torch.arange(size, device=x.device) >= again).double()
            own = is_new if own is None else own * is_new
        yield x[rows], own


def flagged(flags: list[float], device: torch.device) -> Tensor:
    """Indices (m,) int64 of the set flags, on the device; copies nothing to it if there are none."""
    indices = [index for index, flag in enumerate(flags) if flag]
    if not indices:
        return torch.empty(0, dtype=torch.long, device=device)
    return torch.tensor(indices, device=device)


def are_ill_conditioned(family: CovarianceFamily, parameters: Parameters, dtype: torch.dtype) -> Tensor:
    """Mask (R K,) of components for which float32 quadratic forms lose too many digits; (0,) if `dtype` is float64.

    The error of a sum of products grows with the norm of the precision and the component's distance from the origin,
    divided by the root of D because roundings add up like a random walk. Compared with float64 on features of a
    CIFAR-10 classifier, this overestimates the loss of the E-step and the M-step.
    """
    if dtype == torch.float64:
        return torch.empty(0, dtype=torch.bool, device=parameters.means.device)
    n_features = parameters.means.shape[-1]
    norm = family.precision_norm(parameters.factors, n_features)
    distance = (parameters.means.square().sum(-1) + n_features).sqrt()
    error = torch.finfo(torch.float32).eps * norm * distance / n_features**0.5
    result: Tensor = (error > _ILL_CONDITIONED_NATS * n_features).flatten()
    return result
