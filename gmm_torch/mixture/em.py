"""Expectation-maximisation as a machine: one pass = accumulate statistics -> reduce over processes -> advance.

    em = EM(family, n_components, n_features)
    while not em.done:
        total = em.collect(batches)
        em.advance(total)  # reduces over processes

`EM.run` is this loop: of a fit in memory, of a streamed or distributed one, of one with missing features, of the first
points of a stream. Under a Lightning Trainer an epoch is a pass, and its end calls `advance`.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gmm_torch.devices import CHECK_EVERY, budget, full_precision, look
from gmm_torch.errors import ConvergenceWarning, warn
from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.data_summary import DataSummary, Standardisation, check_range, sample_capacity
from gmm_torch.mixture.e_step import Assignment, EStep, are_ill_conditioned, flagged
from gmm_torch.mixture.init import get_initialisation
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.prior import Prior
from gmm_torch.mixture.reseed import reseed
from gmm_torch.mixture.sampling import RowKeys
from gmm_torch.mixture.stand_ins import stand_ins
from gmm_torch.mixture.statistics import Statistics

logger = logging.getLogger(__name__)

# Attributes that a later process needs, from the beginning and after the first pass.
STATE = ("phase", "n_iter", "converged", "gain", "history")
STATE_AFTER_SUMMARY = ("_total_weight", "_unit", "reg_covar", "jitter", "n_reseeded", "_ill_conditioned")

Phase = Literal["summary", "assign", "em", "done"]

# Smallest fraction of a feature's variance that is added to the diagonal, whatever was asked for.
REG_COVAR_FLOOR = 1e-10
# Elements of the points that are summarised at once: few enough for its passes over them to find them cached.
SUMMARY_ELEMENTS = {"host": 2**18, "accelerator": 2**24}


@dataclass
class EM:
    """EM for one covariance family, advanced pass by pass; see the first lines of the module.

    The first pass summarises the data, the second assigns points to initial means, every other is an EM iteration; one
    in which a component collapses to less than float32 can sum is taken again.
    Parameters live in float64 and in standardised coordinates; `result` maps them back.

    Attributes:
        dtype: what densities are computed in; sums are float64 whatever it is.
        device: where the batches are.
        stored: the type that the parameters are kept in, None for `dtype`; points beyond its range are refused.
        phase: what the next pass does.
        history: (R,) float64 tensors, the mean objective of each iteration, in standardised coordinates.
        reg_covar: (D,), what is added to the diagonal of every covariance, in standardised coordinates.
        jitter: (R, K), what it took to factorise each covariance in the last iteration.
        n_reseeded: (R,), components moved to the worst explained point so far.
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
    n_reseeded: Tensor = field(init=False)
    converged: bool = field(default=False, init=False)
    n_iter: int = field(default=0, init=False)
    gain: float = field(default=math.inf, init=False)
    _total_weight: float = field(default=math.nan, init=False)
    _unit: float = field(default=1.0, init=False)
    _ill_conditioned: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long, device="cpu"), init=False)
    _step: EStep = field(init=False)
    _row_keys: RowKeys | None = field(default=None, init=False)
    _fresh: Factors | None = field(default=None, init=False)

    @property
    def done(self) -> bool:
        """Whether the fit is over."""
        return self.phase == "done"

    @property
    def n_points(self) -> int:
        """How many points of positive weight the data summary has counted."""
        return int(self._total_weight)

    # ---- one pass

    def zero(self) -> DataSummary | Statistics:
        """The statistics of no points, for the current pass."""
        if self.phase == "summary":
            return self.accumulate(torch.empty(0, self.n_features, device=self.device))
        return self._step.zero()

    @torch.no_grad()
    def accumulate(self, x: Tensor, weight: Tensor | None = None) -> DataSummary | Statistics:
        """Statistics of a batch, for the current pass.

        Args:
            x: (n, D), any floating type, raw coordinates. Rows that are not finite make the end of that pass raise.
            weight: (n,), >= 0, or None for ones.
        """
        with full_precision(self.device):
            if self.phase != "summary":
                return self._step(x, self.relative(weight, len(x)))
            n_rows = max(1, budget(self.device, **SUMMARY_ELEMENTS) // self.n_features)
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
                if len(late.keys) > capacity // 4:  # a merge costs what is kept: there are few with the many
                    total, late = total + late, None
                    last = total.last_keys
            return total if late is None else total + late

    def relative(self, weight: Tensor | None, n: int) -> Tensor | None:
        """Weights (n,) in units of the summarised points' mean weight; None where all are one.

        Whatever counts points below (what is without points, a prior, shrinkage, the window of a stream) then sees the
        same numbers whatever constant the weights are multiplied by.
        """
        if self._unit == 1:
            return weight
        if weight is None:
            return torch.full((n,), 1 / self._unit, dtype=torch.float64, device=self.device)
        return weight.double() / self._unit

    def collect(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> DataSummary | Statistics:
        """Sum of `accumulate` over (x, weight) batches."""
        total: DataSummary | Statistics | None = None
        for x, weight in batches:
            part = self.accumulate(x, weight)
            total = part if total is None else total + part  # type: ignore[operator]
        return self.zero() if total is None else total

    @property
    def n_passes(self) -> int:
        """Passes that no fit needs more than: the data summary, the assignment, iterations that are taken again.

        An iteration is taken again where components turn out to need float64, at most as often as there are components.
        """
        return 2 + self.options.max_iter * (1 + self.options.n_init * self.n_components)

    @torch.no_grad()
    def advance(self, total: DataSummary | Statistics) -> None:
        """End a pass with the statistics of all points of this process, which are summed over the processes first.

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
                self._start(total)
            else:
                self._iterate(total)

    def run(
        self,
        batches: Iterable[tuple[Tensor, Tensor | None]],
        *,
        until: Phase = "done",
        on_iteration: Callable[[int, Tensor], None] | None = None,
    ) -> Self:
        """Make passes until a phase begins.

        Args:
            batches: (x, weight) of this process, read again at every pass.
            until: "assign" to stop after the data summary, "em" before the first iteration.
            on_iteration: called with the number of each iteration and its objective per point (R,).
        """
        while not self.done and self.phase != until:
            n_iter = self.n_iter
            self.advance(self.collect(batches))
            if on_iteration is not None and self.n_iter > n_iter:
                on_iteration(self.n_iter, self.history[-1])
        return self

    # ---- between passes

    def _check_total_weight(self, total_weight: float) -> None:
        if not math.isclose(total_weight, self._total_weight, rel_tol=1e-6):
            raise ValueError(
                f"expected the same points at every pass, of total weight {self._total_weight * self._unit:g} as "
                f"in the first; got {total_weight * self._unit:g}: give data that can be read again and again"
            )

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
        self._total_weight, self._unit = float(count), numbers[4] / count
        check_range(numbers[5], deviation, varies, self.dtype, self.stored or self.dtype)
        # Where the regularisation is all there is, its own size is the scale: in units of the data it would overflow.
        smallest = 2.0**-60 * self.options.reg_covar**0.5 if self.options.reg_mode == "absolute" else 0.0
        self.standardisation = summary.standardisation(self.family.scales_features, smallest)
        self.reg_covar = self.regularisation(self.standardisation.scale, self.standardisation.unit)
        self._fresh = None

    def regularisation(self, scale: Tensor, variance: Tensor) -> Tensor:
        """`reg_covar` (D,) in units of a scale (D,), of data with that variance (D,) in these."""
        asked = self.options.reg_covar
        added = asked / scale / scale if self.options.reg_mode == "absolute" else asked * variance
        return torch.maximum(added, REG_COVAR_FLOOR * variance)

    def _initialise(self, summary: DataSummary) -> None:
        location, scale = self.standardisation.location, self.standardisation.scale
        if self.options.means_init is not None:
            given = self.options.means_init.to(self.device, torch.float64)
            means = ((given - location) / scale).expand(self.options.n_init, -1, -1)
        else:
            generator = torch.Generator().manual_seed(self.options.seed)
            sample, sample_weight = summary.sample()
            points = self.standardisation.apply(sample, self.dtype)
            weight = (sample_weight / self._unit).to(self.dtype)
            init = get_initialisation(self.options.init_params)
            means = init.means(points, weight, self.n_components, self.options.n_init, generator).double()
        self.parameters = Parameters(
            means.new_full(means.shape[:2], -math.log(self.n_components)),
            means,
            self._broad(means.shape[0]),
        )
        self.jitter = means.new_zeros(means.shape[:2])
        self.n_reseeded = means.new_zeros(means.shape[0])
        options = self.options
        if all(v is not None for v in (options.weights_init, options.means_init, options.precisions_init)):
            self.begin(self._with_given(self.parameters))
            return
        self.phase = "assign"
        self._step = self._make_step()

    def begin(self, parameters: Parameters) -> None:
        """Start the iterations from parameters of standardised points, after the data summary."""
        self.phase = "em"
        self._ill_conditioned = flagged(look("conditioning", self._are_ill_conditioned(parameters))[0], self.device)
        self._adopt(parameters)

    def go_on_from(self, start: "EM", reg_covar: Tensor, step_type: type[EStep]) -> None:
        """Begin with the parameters of a finished EM, in its coordinates, with another regularisation and E-step.

        That E-step works in float64 and on one mixture.
        """
        self.dtype, self.step_type = torch.float64, step_type
        self.standardisation, self.reg_covar, self._fresh = start.standardisation, reg_covar, None
        self._total_weight, self._unit = start._total_weight, start._unit
        best = slice(start.best, start.best + 1)
        self.jitter, self.n_reseeded = start.jitter[best], torch.zeros_like(start.n_reseeded[best])
        self.begin(start.parameters.map(lambda value: value[best]))

    def take_over(self, parameters: Parameters, location: Tensor) -> None:
        """End with known parameters of one mixture, in raw units about a location (D,) float64, without any data."""
        wide = parameters.map(lambda value: value.double())
        dense = self.family.dense(wide.factors, self.n_components, self.n_features)
        batches = stand_ins(wide.log_weights.softmax(-1), wide.means, dense)
        total = self.collect((x + location, weight.sum(0) * self.n_components) for x, weight in batches)
        assert isinstance(total, DataSummary)
        self.standardise(total)
        self.jitter = parameters.means.new_zeros(1, self.n_components, dtype=torch.float64)
        self.n_reseeded = self.jitter[:, 0]
        self.begin(self.standardisation.parameters(self.family, parameters, location).map(lambda value: value[None]))
        self._unit, self.phase = 1.0, "done"

    def _broad(self, n_init: int) -> dict[str, Tensor]:
        """Factors of components as wide as the data."""
        unit = self.family.unit(self.n_components, self.n_features)
        factors = {name: value.to(self.reg_covar).expand(n_init, *value.shape).clone() for name, value in unit.items()}
        everyone = torch.ones(n_init, self.n_components, dtype=torch.bool, device=self.device)
        return self.family.replace(factors, everyone, self.fresh)

    @property
    def fresh(self) -> Factors:
        """Factors of one component as wide as the data, which a component without points gets; drawn once a fit."""
        if self._fresh is None:
            self._fresh = self.family.fresh(self.standardisation.unit + self.reg_covar)
        return self._fresh

    def _start(self, total: Statistics) -> None:
        moments = self.prior.add(self.family, total.moments, self.parameters, self.penalty)
        fitted, self.jitter = self.family.start(moments, self.reg_covar, self.parameters)
        fitted = self.prior.weigh(fitted, total.moments["moments"][..., 0])
        self.begin(self._with_given(fitted))

    def _with_given(self, parameters: Parameters) -> Parameters:
        """`parameters` with the initial values that the options give in place of theirs."""
        log_weights, means, factors = parameters.log_weights, parameters.means, parameters.factors
        n_init = means.shape[0]
        if self.options.means_init is not None:
            means = self.parameters.means.clone()
        if self.options.weights_init is not None:
            given = self.options.weights_init.to(self.device, torch.float64)
            log_weights = (given / given.sum()).log().expand(n_init, -1)
        if self.options.precisions_init is not None:
            precisions = self.options.precisions_init.to(self.device, torch.float64)
            raw = self.family.from_precisions(precisions)
            factors = self.family.rescale(raw, 1 / self.standardisation.scale)
            factors = {name: value.expand(n_init, *value.shape) for name, value in factors.items()}
        return Parameters(log_weights, means, factors)

    def _adopt(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._step = self._make_step()

    def _are_ill_conditioned(self, parameters: Parameters) -> Tensor:
        """(R K,) bool, which components float32 is not enough for; (0,) where nothing is computed in it."""
        if self.dtype == torch.float64:
            return torch.empty(0, dtype=torch.bool, device=self.device)
        return are_ill_conditioned(self.family, parameters)

    def _make_step(self) -> EStep:
        if self.phase == "assign":
            # In float64: nothing is known yet about how well conditioned the components will be.
            return Assignment(self.family, self.parameters, self.reg_covar, self.standardisation, torch.float64)
        conditioning = self.dtype, self._ill_conditioned
        return self.step_type(self.family, self.parameters, self.penalty, self.standardisation, *conditioning)

    @property
    def prior(self) -> Prior:
        """The prior of the options, in standardised coordinates."""
        options = self.options
        return Prior(options.prior_count, options.weight_concentration, self.standardisation.unit)

    @property
    def penalty(self) -> Tensor:
        """`reg_covar` that the E-step allows for, see `CovarianceFamily.prepare`."""
        return self.reg_covar if self.options.reg_mode == "relative" else torch.zeros_like(self.reg_covar)

    def _iterate(self, total: Statistics) -> None:
        counts = total.moments["moments"][..., 0]
        moments = self.prior.add(self.family, total.moments, self.parameters, self.penalty)
        updated, jitter = self.family.update(moments, self.reg_covar, self.parameters)
        updated = self.prior.weigh(updated, counts)
        if self.options.shrinkage is not None:
            updated = self.family.shrink(updated, counts)
        parameters, n_reseeded = updated, self.n_reseeded
        if self.options.prior_count == 0 and self.n_components > 1:
            parameters, moved = reseed(self.family, self.parameters, updated, total, self.fresh, self.penalty)
            n_reseeded = n_reseeded + moved
        objective = total.log_likelihood
        if self.prior.matters:
            objective = objective + self.prior.log_density(self.family, self.parameters, self.penalty)
        history = [*self.history, objective / total.total_weight]
        n_iter = self.n_iter + 1
        is_last = n_iter >= self.options.max_iter
        if is_last or n_iter % budget(self.device, **CHECK_EVERY) == 0:
            after = self._are_ill_conditioned(parameters)
            collapsing = after if parameters is updated else self._are_ill_conditioned(updated)
            collapsing = collapsing.index_fill(0, self._ill_conditioned, True)
            (total_weight, moves), recent, ill_conditioned, wanted = look(
                "convergence",
                torch.stack([total.total_weight, n_reseeded.sum()]),
                torch.cat(history[-2:]),
                after,
                collapsing,
            )
            if self._step.dtype != torch.float64 and sum(wanted) > len(self._ill_conditioned):
                # A component has become so ill-conditioned that its moments should have been summed in float64: the
                # next pass sums them again, with that component in float64, from the parameters there are.
                self._ill_conditioned = flagged(wanted, self.device)
                self._step = self._make_step()
                return
            self._ill_conditioned = flagged(ill_conditioned, self.device)
            self._check_total_weight(total_weight)
            self._check_convergence(recent, is_last, int(moves))
        self.jitter, self.n_reseeded, self.history, self.n_iter = jitter, n_reseeded, history, n_iter
        self._adopt(parameters)

    def _check_convergence(self, recent: list[float], is_last: bool, n_reseeded: int) -> None:
        """Decide whether to stop, by the objectives of the last iterations, the two or the first, of all restarts."""
        n_init = len(self.n_reseeded)
        before, now = recent[:-n_init], recent[-n_init:]
        if before:
            change = [b - a for a, b in zip(before, now, strict=True)]
            self.gain = change[now.index(max(now))]
            self.converged = all(abs(each) < self.options.tol for each in change)
        if self.converged or is_last:
            self.phase = "done"
            if n_reseeded:
                moved = "1 component" if n_reseeded == 1 else f"{n_reseeded} components"
                logger.info("moved %s without points to the worst explained points", moved)

    def warn_unless_converged(self) -> None:
        """Issue a `ConvergenceWarning` that says by how much EM fell short, where it did."""
        if not self.converged:
            warn(self.shortfall(), ConvergenceWarning)

    def shortfall(self, prefix: str = "") -> str:
        """By how much EM fell short and what helps; a prefix, "mixture.em." say, stands before the options' names."""
        gain, n, most = self.gain, self.n_iter, self.options.max_iter
        known = f"while the mean log-likelihood still changed by {gain:.3g} an iteration"
        remedy = f"raise {prefix}max_iter or {prefix}tol"
        if len(self.history) < 2:
            known = "before two log-likelihoods could be compared"
        elif gain <= 0:  # shrinkage is no maximisation: more of it need not raise anything
            remedy = f"it can fall where covariances are shrunk: raise {prefix}tol"
        after = f"{prefix}max_iter={n}" if n == most else f"{n} of {prefix}max_iter={most}"
        return f"EM stopped after {after} iterations, {known} (tol={self.options.tol:g}); {remedy}"

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

    # ---- moving and saving

    def to(self, device: torch.device) -> Self:
        """Go on with batches that are on `device`."""
        self.device = device
        self.load_state_dict(self.state_dict())
        return self

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on with the next pass: tensors and plain values."""
        state = {name: getattr(self, name) for name in STATE}
        state["history"] = list(self.history)
        if self.phase != "summary":
            state |= {name: getattr(self, name) for name in STATE_AFTER_SUMMARY}
            state |= {"parameters": self.parameters.state_dict(), "standardisation": vars(self.standardisation).copy()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of an EM with the same family, sizes, options and dtype."""
        state = tree_map_only(Tensor, lambda value: value.to(self.device), state)
        for name in STATE if state["phase"] == "summary" else STATE + STATE_AFTER_SUMMARY:
            setattr(self, name, state[name])
        if self.phase != "summary":
            self.parameters = Parameters.from_state_dict(state["parameters"])
            self.standardisation = Standardisation(**state["standardisation"])
            self._fresh = self._row_keys = None
            self._step = self._make_step()
