"""The E-step: from points to sufficient statistics, chunk by chunk, in two matrix products a chunk."""

from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.devices import SPILL_POINTS, is_host, rows_at_once
from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.data_summary import Standardisation
from gmm_torch.mixture.init.base import assign
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.statistics import Statistics

# A chunk below this many points would spend its time on starting operations.
MIN_CHUNK = 256
# Logarithm of a ratio to the largest term that stands for all smaller ones. Below it lie the subnormal numbers, which
# are slow to compute with, and no digit of any sum.
LOG_NOTHING = -80.0
# Estimated error of a float32 quadratic form, in nats for every feature, above which a component is evaluated in
# float64. A log-likelihood has a nat or two for every feature, so this is less than a hundred-thousandth of it: a tenth
# of what many iterations may make of it.
ILL_CONDITIONED_NATS = 7.5e-6


class Workspace(NamedTuple):
    """Memory for a chunk of `step` points: features in the computing type and, if needed, in float64; to work in."""

    step: int
    features: Tensor
    wide_features: Tensor | None
    scratch: Tensor


class EStep:
    """Statistics of points under fixed parameters of R mixtures.

    Densities and sums are computed in `dtype`, about the origin of the standardised data. That is exact enough until a
    component is so ill-conditioned that its second moment cancels against its mean: those components are evaluated
    in float64, alone where the family allows it.

    Args:
        parameters: float64, leading dimension R.
        reg_covar: (D,) float64, see `CovarianceFamily.prepare`.
        standardisation: maps raw points to the parameters' coordinates.
        dtype: the computing type, float32 or float64.
        ill_conditioned: flat indices over R and K of the components that float32 is not enough for.
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

    # ---- what a pass does to a chunk

    def responsibilities(
        self, features: Tensor, wide_features: Tensor | None, scratch: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Responsibilities (R, K, n) and objective (R, n) of a chunk."""
        joint = self.family.log_joint(self.prepared, features, scratch)
        if wide_features is not None:
            joint[self.ill_conditioned] = self.family.log_joint(self.wide_prepared, wide_features).to(self.dtype)
        if not is_host(joint.device):
            # Subnormal numbers cost an accelerator nothing, operations and passes over its memory do.
            share = joint.softmax(-2)
            return share, joint.amax(-2) - share.amax(-2).log()
        peak = joint.amax(-2, keepdim=True)
        joint.sub_(peak).clamp_min_(LOG_NOTHING).exp_()
        total = joint.sum(-2, keepdim=True)
        joint.mul_(total.reciprocal())
        return joint, (peak + total.log_())[..., 0, :]

    # ---- the loop

    def __call__(self, x: Tensor, weight: Tensor | None = None) -> Statistics:
        """Statistics of raw points x (n, D) with weights (n,) >= 0 or None for ones; n may be zero."""
        if not len(x):
            return self.zero()
        if not is_host(x.device):
            return reduce(add, (self.chunk(*part) for part in equal_chunks(x, weight, self._chunk)))
        workspace = self._workspace(x)
        blocks = (slice(start, start + SPILL_POINTS) for start in range(0, len(x), SPILL_POINTS))
        return reduce(
            add, (self._block(x[rows], None if weight is None else weight[rows], workspace) for rows in blocks)
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
        nobody = some.new_zeros(self._n_rows, 0)
        lead: tuple[int, ...] = (self.n_init, self.n_components)
        if self.ill_conditioned is not None and prepared is not self.prepared:
            lead = self.ill_conditioned[0].shape
        return self.family.moments(prepared, nobody, some.new_zeros(*lead, 0))

    @property
    def _n_rows(self) -> int:
        """Number of features that the family makes of a point."""
        return self.family.n_products(self.n_features) + self.n_features + 1

    @property
    def _n_scratch(self) -> int:
        """Numbers that the family works with for a point."""
        return self.family.n_scratch(self.n_init, self.n_components, self.n_features, self.parameters.means.device)

    @property
    def _chunk(self) -> int:
        """Number of points that are looked at together."""
        n_all = self.n_init * self.n_components
        alive = (3 if self.ill_conditioned else 1) * self._n_rows + 2 * n_all + self._n_scratch
        return rows_at_once(self.parameters.means.device, alive * self.dtype.itemsize, MIN_CHUNK)

    def _workspace(self, x: Tensor) -> Workspace:
        """Of a chunk of points like these. They serve a whole pass: a CPU pays for fresh pages."""
        step = min(self._chunk, len(x), SPILL_POINTS)
        return Workspace(
            step,
            x.new_empty(self._n_rows * step, dtype=self.dtype),
            x.new_empty(self._n_rows * step, dtype=torch.float64) if self.ill_conditioned else None,
            x.new_empty(self._n_scratch * step, dtype=self.dtype),
        )

    def _block(self, x: Tensor, weight: Tensor | None, workspace: Workspace) -> Statistics:
        """Statistics of few enough points for their sums to be taken in the computing type."""
        moments = self._zero_moments(self.prepared)
        wide_moments = self._zero_moments(self.wide_prepared) if self.ill_conditioned else {}
        step, scratch, objectives = workspace.step, workspace.scratch, []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            features = self._features(part, self.dtype, workspace.features)
            wide_features = None
            if workspace.wide_features is not None:
                # Narrower points are standardised in float32, and stand there already.
                columns = None if x.dtype == torch.float64 else features[1 : self.n_features + 1]
                wide_features = self._features(part, torch.float64, workspace.wide_features, columns)
            joint, objective = self.responsibilities(features, wide_features, scratch)
            if weight is not None:
                joint.mul_(weight[start : start + step].to(self.dtype))
            self.family.moments(self.prepared, features, joint, moments, scratch)
            if wide_features is not None:
                self.family.moments(
                    self.wide_prepared, wide_features, joint[self.ill_conditioned].double(), out=wide_moments
                )
            objectives.append(objective)
        return self._statistics(x, weight, torch.cat(objectives, dim=-1), moments, wide_moments)

    def chunk(self, x: Tensor, weight: Tensor | None) -> Statistics:
        """Statistics of all points x (n, D), with weights (n,) or None, at once: as few operations as there can be.

        It decides nothing by the numbers in tensors, so it may be compiled, and captured in a CUDA graph.
        """
        features, wide_features, wide_moments = self._features(x, self.dtype), None, {}
        if self.ill_conditioned is not None:
            wide_features = self._features(x, torch.float64)
        joint, objective = self.responsibilities(features, wide_features, None)
        if weight is not None:
            joint = joint * weight.to(self.dtype)
        moments = self.family.moments(self.prepared, features, joint)
        if wide_features is not None:
            own = joint[self.ill_conditioned].double()
            wide_moments = self.family.moments(self.wide_prepared, wide_features, own)
        return self._statistics(x, weight, objective, moments, wide_moments)

    def _features(
        self, x: Tensor, dtype: torch.dtype, buffer: Tensor | None = None, columns: Tensor | None = None
    ) -> Tensor:
        """(1 + D + Q, n), in the buffer if there is one, of `columns` (D, n) where x stands there standardised."""
        if torch.compiler.is_compiling():  # which fuses the parts, and refuses an `out` that is not one block of memory
            columns = self.standardisation.columns(x, dtype)
            return torch.cat([columns.new_ones(1, len(x)), columns, self.family.products(columns)])
        size = self._n_rows * len(x)
        flat = x.new_empty(size, dtype=dtype) if buffer is None else buffer[:size]
        features = flat.view(len(x), -1).mT if self.family.by_point else flat.view(-1, len(x))
        place = features[1 : self.n_features + 1]
        if columns is None:
            self.standardisation.columns(x, dtype, out=place)
        else:
            place.copy_(columns)
        return self.family.complete(features, self.n_features)

    def _statistics(
        self, x: Tensor, weight: Tensor | None, objective: Tensor, moments: Factors, wide_moments: Factors
    ) -> Statistics:
        """Of points x (n, D) with weights (n,) or None, their objective (R, n), and their moments.

        `wide_moments` are those of the ill-conditioned components, which stand in place of others.
        """
        objective = objective.double()
        moments = {name: value.double() for name, value in moments.items()}
        for name, value in wide_moments.items():
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
    """Assignment of every point to the nearest of the means, for the start; the objective is zero."""

    def responsibilities(
        self, features: Tensor, wide_features: Tensor | None, scratch: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Responsibilities (R, K, n), one-hot but for ties, and zeros (R, n)."""
        columns = features[1 : self.n_features + 1]
        _, share = assign(columns.mT, self.parameters.means.to(self.dtype))
        return share.mT.contiguous(), columns.new_zeros(self.n_init, columns.shape[1])


def equal_chunks(x: Tensor, weight: Tensor | None, largest: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Points x (n, D) and weights (n,) or None in chunks of one size, up to `largest`: one program is for all of them.

    Points of the last one that the one before it has had are of weight zero.
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
    """Where the flags are set, (m,) int64 on the device; nothing is copied to it if nowhere."""
    indices = [index for index, flag in enumerate(flags) if flag]
    if not indices:
        return torch.empty(0, dtype=torch.long, device=device)
    return torch.tensor(indices, device=device)


def are_ill_conditioned(family: CovarianceFamily, parameters: Parameters) -> Tensor:
    """Which components, of all R mixtures in turn (R K,) bool, have float32 quadratic forms that lose too many digits.

    The error of a sum of products grows with the norm of the precision and the distance of the component from the
    origin, divided by the root of D since roundings add up like a random walk. Held against float64 on features of a
    CIFAR-10 classifier, this is an upper estimate of what the E-step and the M-step lose.
    """
    n_features = parameters.means.shape[-1]
    norm = family.precision_norm(parameters.factors, n_features)
    distance = (parameters.means.square().sum(-1) + n_features).sqrt()
    error = torch.finfo(torch.float32).eps * norm * distance / n_features**0.5
    result: Tensor = (error > ILL_CONDITIONED_NATS * n_features).flatten()
    return result
