"""Expectation-maximisation, pass by pass: accumulate statistics -> reduce over processes -> advance.

    em = EM(family, n_components, n_features)
    while not em.done:
        total = em.collect(batches)
        em.advance(total)  # reduces over processes

`EM.run` is this loop, for every fit: in memory, streamed, distributed, with missing features, of the first points of a
stream. Under a Lightning Trainer an epoch is a pass, and its end calls `advance`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gmm_torch.devices import CHECK_EVERY, budget, full_precision, is_host, look
from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.data_summary import DataSummary, Standardisation, check_range, sample_capacity
from gmm_torch.mixture.e_step import Assignment, EStep, are_ill_conditioned, flagged
from gmm_torch.mixture.init import get_initialisation
from gmm_torch.mixture.linear_algebra import log_normal
from gmm_torch.mixture.options import EMOptions, Prior
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.sampling import RowKeys
from gmm_torch.mixture.statistics import Statistics

__all__ = ["EM", "Phase"]

Phase = Literal["summary", "assign", "iterate", "done"]

# Attributes in a saved state: always, and after the first pass.
_STATE = ("phase", "n_iter", "converged", "gain", "history")
_STATE_AFTER_SUMMARY = ("n_points", "mean_weight", "reg_covar", "jitter", "ill_conditioned")
# Smallest fraction of a feature's variance that is added to the diagonal.
_REG_COVAR_FLOOR = 1e-10
# Elements that are summarised at once: few enough to stay cached over several passes.
_SUMMARY_ELEMENTS = {"host": 2**18, "accelerator": 2**24}
# A component with fewer summed responsibilities is empty.
_EMPTY_COUNT = 1e-6


@dataclass
class EM:
    """EM for one covariance family, advanced pass by pass; see the module's docstring.

    The first pass summarises the data, the second assigns points to initial means, and every other one is an EM
    iteration. An iteration is repeated if a component has become too ill-conditioned for float32. Parameters are
    float64, in standardised coordinates; `result` maps them back.

    Attributes:
        dtype: type of the densities; sums are float64.
        device: device of the batches.
        stored: type in which the parameters are kept, None for `dtype`; points beyond its range are refused.
        step_type: the E-step of the iterations.
        phase: what the next pass does.
        history: (R,) float64 tensors, the mean objective of each iteration, in standardised coordinates.
        reg_covar: (D,), added to the diagonal of every covariance, in standardised coordinates.
        jitter: (R, K), added to factorise each covariance in the last iteration.
        n_points, mean_weight: number of points of positive weight, and their mean weight.
        ill_conditioned: flat indices over R and K of the components evaluated in float64.
        converged, n_iter, gain: of the best restart, as of the last look.
    """

    family: CovarianceFamily
    n_components: int
    n_features: int
    options: EMOptions = field(default_factory=EMOptions)
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    stored: torch.dtype | None = None
    step_type: type[EStep] = field(default=EStep, init=False)

    phase: Phase = field(default="summary", init=False)
    standardisation: Standardisation = field(init=False)
    parameters: Parameters = field(init=False)
    history: list[Tensor] = field(default_factory=list, init=False)
    reg_covar: Tensor = field(init=False)
    jitter: Tensor = field(init=False)
    n_points: float = field(default=math.nan, init=False)
    mean_weight: float = field(default=1.0, init=False)
    ill_conditioned: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long, device="cpu"), init=False)
    converged: bool = field(default=False, init=False)
    n_iter: int = field(default=0, init=False)
    gain: float = field(default=math.inf, init=False)
    _step: EStep = field(init=False)
    _row_keys: RowKeys | None = field(default=None, init=False)
    _fresh: Factors | None = field(default=None, init=False)

    @property
    def done(self) -> bool:
        """True once the fit is over."""
        return self.phase == "done"

    @property
    def n_passes(self) -> int:
        """Upper bound of the number of passes; an iteration is repeated at most once per component."""
        return 2 + self.options.max_iter * (1 + self.options.n_init * self.n_components)

    # ---- one pass

    def run(
        self,
        batches: Iterable[tuple[Tensor, Tensor | None]],
        *,
        until: Phase = "done",
        on_iteration: Callable[[int, Tensor], None] | None = None,
    ) -> Self:
        """Make passes over this process's (x, weight) `batches` until a phase begins.

        `on_iteration` is called with the number of each iteration and its objective per point (R,).
        """
        while not self.done and self.phase != until:
            n_iter = self.n_iter
            self.advance(self.collect(batches))
            if on_iteration is not None and self.n_iter > n_iter:
                on_iteration(self.n_iter, self.history[-1])
        return self

    def zero(self) -> DataSummary | Statistics:
        """The statistics of no points, for the current pass."""
        if self.phase == "summary":
            return self.accumulate(torch.empty(0, self.n_features, device=self.device))
        return self._step.zero()

    @torch.no_grad()
    def accumulate(self, x: Tensor, weight: Tensor | None = None) -> DataSummary | Statistics:
        """Statistics of a batch, for the current pass.

        Args:
            x: (n, D), any floating type, raw coordinates. Rows that are not finite make the first pass raise at its
            end. weight: (n,), >= 0, or None for ones.
        """
        with full_precision(self.device):
            if self.phase != "summary":
                return self._step(x, self.relative(weight, len(x)))
            n_rows = max(1, budget(self.device, **_SUMMARY_ELEMENTS) // self.n_features)
            weights = [None] * (len(x) // n_rows + 1) if weight is None else weight.split(n_rows)
            capacity = sample_capacity(self.n_components)
            parts = zip(x.split(n_rows), weights, strict=False)
            if self._row_keys is None:
                self._row_keys = RowKeys(self.n_features, self.options.seed, self.device)
            total, late = DataSummary.of(*next(parts), capacity, self._row_keys), None
            last = total.last_keys
            for part, own in parts:
                summary = DataSummary.of(part, own, capacity, self._row_keys, last)
                late = summary if late is None else late + summary
                if len(late.keys) > capacity // 4:  # merge rarely: a merge costs as much as is kept
                    total, late = total + late, None
                    last = total.last_keys
            return total if late is None else total + late

    def relative(self, weight: Tensor | None, n: int) -> Tensor | None:
        """Weights (n,) in units of the mean weight; None if all are one.

        Everything that counts points (empty components, a prior, shrinkage, the window of a stream) then gives the same
        result if all weights are multiplied by a constant.
        """
        if self.mean_weight == 1:
            return weight
        if weight is None:
            return torch.full((n,), 1 / self.mean_weight, dtype=torch.float64, device=self.device)
        return weight.double() / self.mean_weight

    def collect(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> DataSummary | Statistics:
        """Sum of `accumulate` over (x, weight) batches."""
        total: DataSummary | Statistics | None = None
        for x, weight in batches:
            part = self.accumulate(x, weight)
            total = part if total is None else total + part  # type: ignore[operator]
        return self.zero() if total is None else total

    @torch.no_grad()
    def advance(self, total: DataSummary | Statistics) -> None:
        """End a pass: sum the statistics of this process's points over the processes, then update.

        Raises:
            ValueError: the first pass met NaN or infinity, or fewer points than components; a later pass met other
                points than the first.
        """
        with full_precision(self.device):
            total = total.reduce()
            if isinstance(total, DataSummary):
                self.standardise(total)
                self._initialise(total)
            elif self.phase == "assign":
                self._check_total_weight(look("assignment", total.total_weight)[0][0])
                self.start(self._with_given(self._m_step(total, self.family.start)[0]))
            else:
                self._iterate(total)

    # ---- between passes

    def standardise(self, summary: DataSummary) -> None:
        """Take coordinates and regularisation from the summary of all points.

        Raises:
            ValueError: NaN, infinity, numbers out of range, fewer points than components.
        """
        counted = summary.rows, summary.n_bad, summary.first_bad, summary.count, summary.total_weight, summary.largest
        numbers, deviation, varies = look("data summary", torch.stack(counted), summary.deviation, summary.varies)
        rows, n_bad, first_bad, count = map(int, numbers[:4])
        if n_bad:
            raise ValueError(
                f"x: expected finite numbers; {n_bad} of {rows} rows have NaN or infinity, "
                f"the first is row {first_bad}: drop or repair them, or "
                "fit(x, missing=True) where NaN stands for a missing value"
            )
        if count < self.n_components:
            raise ValueError(
                f"expected at least as many points of positive weight as components ({self.n_components}); "
                f"got {count}: give more data or fewer components"
            )
        self.n_points, self.mean_weight = float(count), numbers[4] / count
        check_range(numbers[5], deviation, varies, self.dtype, self.stored or self.dtype)
        # A scale far below an absolute `reg_covar` would make it overflow in these units.
        smallest = 2.0**-60 * self.options.reg_covar**0.5 if self.options.reg_mode == "absolute" else 0.0
        self.standardisation = summary.standardisation(self.family.scales_features, smallest)
        self.reg_covar = self.regularisation(self.standardisation.scale, self.standardisation.unit)
        self.jitter = self.reg_covar.new_zeros(self.options.n_init, self.n_components)
        self._fresh = None

    def regularisation(self, scale: Tensor, variance: Tensor) -> Tensor:
        """`reg_covar` (D,) in units of `scale` (D,), for data with this variance (D,) in those units."""
        asked = self.options.reg_covar
        added = asked / scale / scale if self.options.reg_mode == "absolute" else asked * variance
        return torch.maximum(added, _REG_COVAR_FLOOR * variance)

    def _initialise(self, summary: DataSummary) -> None:
        """Choose the initial means; without other initial values, the next pass assigns the points to them."""
        location, scale = self.standardisation.location, self.standardisation.scale
        options = self.options
        if options.means_init is not None:
            given = options.means_init.to(self.device, torch.float64)
            means = ((given - location) / scale).expand(options.n_init, -1, -1)
        else:
            generator = torch.Generator().manual_seed(options.seed)
            sample, sample_weight = summary.sample()
            points = self.standardisation.apply(sample, self.dtype)
            weight = (sample_weight / self.mean_weight).to(self.dtype)
            init = get_initialisation(options.init_params)
            means = init.means(points, weight, self.n_components, options.n_init, generator).double()
        # Components as wide as the data.
        with self.device:
            unit = self.family.unit(self.n_components, self.n_features)
        broad = {name: v.to(self.reg_covar).expand(options.n_init, *v.shape).clone() for name, v in unit.items()}
        everyone = torch.ones(options.n_init, self.n_components, dtype=torch.bool, device=self.device)
        log_weights = means.new_full(means.shape[:2], -math.log(self.n_components))
        self.parameters = Parameters(log_weights, means, self.family.replace(broad, everyone, self.fresh))
        if all(v is not None for v in (options.weights_init, options.means_init, options.precisions_init)):
            self.start(self._with_given(self.parameters))
        else:
            self.phase = "assign"
            self.move_to(self.parameters)

    def _with_given(self, parameters: Parameters) -> Parameters:
        """`parameters` with the initial values of the options."""
        options, (log_weights, means, factors) = self.options, vars(parameters).values()
        if options.means_init is not None:
            means = self.parameters.means.clone()
        if options.weights_init is not None:
            given = options.weights_init.to(self.device, torch.float64)
            log_weights = (given / given.sum()).log().expand(options.n_init, -1)
        if options.precisions_init is not None:
            raw = self.family.from_precisions(options.precisions_init.to(self.device, torch.float64))
            factors = self.family.rescale(raw, 1 / self.standardisation.scale)
            factors = {name: value.expand(options.n_init, *value.shape) for name, value in factors.items()}
        return Parameters(log_weights, means, factors)

    def start(self, parameters: Parameters, phase: Phase = "iterate") -> None:
        """Continue from parameters of standardised points, after the data summary; looks at their conditioning."""
        self.phase = phase
        [flags] = look("conditioning", are_ill_conditioned(self.family, parameters, self.dtype))
        self.ill_conditioned = flagged(flags, self.device)
        self.move_to(parameters)

    def move_to(self, parameters: Parameters) -> None:
        """Take new parameters and prepare their E-step; does not wait for the device."""
        self.parameters = parameters
        values = self.family, self.parameters, self.penalty, self.standardisation
        if self.phase == "assign":  # in float64: the conditioning is not known yet
            self._step = Assignment(*values, torch.float64)
        else:
            self._step = self.step_type(*values, self.dtype, self.ill_conditioned)

    @property
    def fresh(self) -> Factors:
        """Factors of one component as wide as the data, for empty components; drawn once per fit."""
        if self._fresh is None:
            self._fresh = self.family.fresh(self.standardisation.unit + self.reg_covar)
        return self._fresh

    @property
    def prior(self) -> Prior:
        """The prior of the options, in standardised coordinates."""
        return Prior(self.options.prior_count, self.options.weight_concentration, self.standardisation.unit)

    @property
    def penalty(self) -> Tensor:
        """`reg_covar` as the E-step counts it, see `CovarianceFamily.prepare`."""
        return self.reg_covar if self.options.reg_mode == "relative" else torch.zeros_like(self.reg_covar)

    def _m_step(self, total: Statistics, rule: Callable[..., tuple[Parameters, Tensor]]) -> tuple[Parameters, Tensor]:
        """Parameters and jitter (R, K) by a family's `update` or `start`, with the prior."""
        moments = self.prior.add(self.family, total.moments, self.parameters, self.penalty)
        updated, jitter = rule(moments, self.reg_covar, self.parameters)
        return self.prior.weigh(updated, total.moments["moments"][..., 0]), jitter

    def _iterate(self, total: Statistics) -> None:
        updated, jitter = self._m_step(total, self.family.update)
        if self.options.shrinkage is not None:
            updated = self.family.shrink(updated, total.moments["moments"][..., 0])
        parameters = updated
        if self.options.prior_count == 0 and self.n_components > 1:
            parameters = self._reseeded(updated, total)
        objective = total.log_likelihood
        if self.prior.matters:
            objective = objective + self.prior.log_density(self.family, self.parameters, self.penalty)
        history = [*self.history, objective / total.total_weight]
        n_iter = self.n_iter + 1
        is_last = n_iter >= self.options.max_iter
        if is_last or n_iter % budget(self.device, **CHECK_EVERY) == 0:
            after = are_ill_conditioned(self.family, parameters, self.dtype)
            collapsing = after if parameters is updated else are_ill_conditioned(self.family, updated, self.dtype)
            collapsing = collapsing.index_fill(0, self.ill_conditioned, True)
            values = total.total_weight, torch.cat(history[-2:]), after, collapsing
            [total_weight], recent, ill_conditioned, wanted = look("convergence", *values)
            if self._step.dtype != torch.float64 and sum(wanted) > len(self.ill_conditioned):
                # A component needed float64 in this pass already: repeat the pass from the same parameters.
                self.ill_conditioned = flagged(wanted, self.device)
                self.move_to(self.parameters)
                return
            self.ill_conditioned = flagged(ill_conditioned, self.device)
            self._check_total_weight(total_weight)
            self._check_convergence(recent, is_last)
        self.jitter, self.history, self.n_iter = jitter, history, n_iter
        self.move_to(parameters)

    def _reseeded(self, updated: Parameters, total: Statistics) -> Parameters:
        """`updated`, or the parameters with one empty component at the worst explained point if that surely helps.

        With weight e, the point's share of the data's weight, such a component changes the mean log-likelihood by at
        least log(1 - e), on all points, plus e log(1 + e N(x; x) / p(x)) at its own point. If the sum is positive, a
        mixture keeps its other parameters for this iteration, so the likelihood cannot fall.
        """
        family, current, n_features = self.family, self.parameters, self.n_features
        share = total.moments["moments"][..., 0] / total.total_weight  # (R, K)
        lightest = share.argmin(-1, keepdim=True)
        chosen = torch.zeros_like(share, dtype=torch.bool).scatter_(-1, lightest, True)
        # The loss of the empty component must be small compared with the gain at a point of little weight too.
        is_empty = share.gather(-1, lightest)[:, 0] * total.total_weight < _EMPTY_COUNT * total.worst_weight.clamp_max(
            1
        )
        if is_host(share.device) and not bool(is_empty.any()):  # on an accelerator, looking costs more than going on
            return updated
        factors = family.replace(current.factors, chosen, self.fresh)
        log_epsilon = (total.worst_weight / total.total_weight).log()[:, None]  # (R, 1)
        means = torch.where(chosen[..., None], total.worst_point[:, None], current.means)
        others = current.log_weights.masked_fill(chosen, -torch.inf).logsumexp(-1, keepdim=True)
        rest = current.log_weights - others + torch.log1p(-log_epsilon.exp().clamp_max(0.5))
        log_weights = torch.where(chosen, log_epsilon, rest)
        precision = family.precision_diagonal(factors, n_features).expand(means.shape)
        expected = (precision * self.penalty).sum(-1)
        peak = log_normal(expected, family.log_det(factors, n_features).expand(share.shape), n_features)
        peak = peak.gather(-1, lightest)[:, 0]
        # log(1 + e N / p) > 1.5 > -log(1 - e) / e for every e <= 1 / 2.
        helps = (log_epsilon[:, 0] + peak - total.worst > 1.5) & (log_epsilon[:, 0] <= -math.log(2))
        return Parameters(log_weights, means, factors).where(is_empty & helps, updated)

    def _check_total_weight(self, total_weight: float) -> None:
        if not math.isclose(total_weight, self.n_points, rel_tol=1e-6):
            raise ValueError(
                f"expected the same points at every pass, of total weight {self.n_points * self.mean_weight:g} as "
                f"in the first; got {total_weight * self.mean_weight:g}: give data that can be read again and again"
            )

    def _check_convergence(self, recent: list[float], is_last: bool) -> None:
        """Decide whether to stop, from the objectives of the last two iterations (or the first), of all restarts."""
        before, now = recent[: -self.jitter.shape[0]], recent[-self.jitter.shape[0] :]
        if before:
            change = [b - a for a, b in zip(before, now, strict=True)]
            self.gain = change[now.index(max(now))]
            self.converged = all(abs(each) < self.options.tol for each in change)
        if self.converged or is_last:
            self.phase = "done"

    # ---- the result

    @property
    def best(self) -> int:
        """Index of the restart with the highest objective."""
        [objectives] = look("result", self.history[-1])
        return objectives.index(max(objectives))

    def result(self) -> tuple[Parameters, Tensor]:
        """Parameters of the best restart, in raw units, with means relative to a location; and this location (D,)."""
        number = self.best
        best = self.parameters.map(lambda value: value[number])
        return self.standardisation.undo(self.family, best), self.standardisation.location

    def lower_bounds(self) -> Tensor:
        """Mean objective of the best restart before each iteration's update, in raw units: (n_iter,) float64."""
        jacobian = self.standardisation.scale.log().sum()
        return torch.stack(self.history)[:, self.best] - jacobian

    def shortfall(self, prefix: str = "") -> str:
        """Describe by how much EM missed its tolerance and what helps; `prefix` precedes the options' names."""
        gain, n, most = self.gain, self.n_iter, self.options.max_iter
        known = f"while the mean log-likelihood still changed by {gain:.3g} an iteration"
        remedy = f"raise {prefix}max_iter or {prefix}tol"
        if len(self.history) < 2:
            known = "before two log-likelihoods could be compared"
        elif gain <= 0:  # shrinkage does not maximise: more iterations need not help
            remedy = f"it can fall where covariances are shrunk: raise {prefix}tol"
        after = f"{prefix}max_iter={n}" if n == most else f"{n} of {prefix}max_iter={most}"
        return f"EM stopped after {after} iterations, {known} (tol={self.options.tol:g}); {remedy}"

    # ---- moving and saving

    def to(self, device: torch.device) -> Self:
        """Continue with batches that are on `device`."""
        self.device = device
        self.load_state_dict(self.state_dict())
        return self

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values with which a later process can make the next pass."""
        state = {name: getattr(self, name) for name in _STATE}
        state["history"] = list(self.history)
        if self.phase != "summary":
            state |= {name: getattr(self, name) for name in _STATE_AFTER_SUMMARY}
            state |= {"parameters": self.parameters.state_dict(), "standardisation": vars(self.standardisation).copy()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of an EM with the same family, sizes, options and dtype."""
        state = tree_map_only(Tensor, lambda value: value.to(self.device), state)
        for name in _STATE if state["phase"] == "summary" else _STATE + _STATE_AFTER_SUMMARY:
            setattr(self, name, state[name])
        if self.phase != "summary":
            self.standardisation = Standardisation(**state["standardisation"])
            self._fresh = self._row_keys = None
            self.move_to(Parameters.from_state_dict(state["parameters"]))
