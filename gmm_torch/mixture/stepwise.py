"""EM on a stream: every batch moves the mixture a little, and is then forgotten."""

from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gmm_torch.devices import full_precision, look
from gmm_torch.distributed import all_reduce_sum, sum_of_all
from gmm_torch.errors import NotFittedError
from gmm_torch.mixture.batches import Array, as_tensor, check_points, check_weight, readable
from gmm_torch.mixture.e_step import EStep, are_ill_conditioned, flagged
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.stand_ins import moments_of
from gmm_torch.mixture.statistics import Statistics

TINY = torch.finfo(torch.float64).tiny


class OnlineEM:
    """Stepwise EM (Cappe and Moulines 2009, equation 10; Liang and Klein 2009, section 3).

    The statistics of a batch under the current parameters are averaged into those of the batches before,
    s <- (1 - g) s + g s_batch with g = (t + offset)^-power, and the M-step is taken from s. `update` neither reads a
    number from the device nor keeps the batch, so it can follow a training step.

    On a stream that never settles g must not fall to zero. With `window` it is the batch's share of the points that are
    remembered, g = n_batch / min(n_seen, window): all points alike until there are `window` of them, then a half-life
    of 0.7 `window` points.

    The first points, `n_first` of them, are kept until there are enough for `em`, which fits them; the stream goes on
    from there. Coordinates are standardised once, on these points; the regularisation is relative to their variance.
    Parameters that are known from `n_known` other points need no first ones: they count as that many points that the
    stream has had.

    Batches should be mixed. Where each is of one kind, the mixture describes what came last.

    With a process group of torch.distributed, every process gives its own batches, in as many calls as the others, and
    all have the same mixture. `n_first` then counts the points of all; until they have come, processes wait for each
    other's counts.

    Args:
        em: that has not begun; its `max_iter` iterations are for the first points.
        known: parameters for it to begin with, their means relative to a location (D,), and the location; None to
            initialise.
        power: of the step size, in (1/2, 1]; small forgets fast. 1 averages all batches alike.
        offset: of the step size, >= 1; large moves slowly at first.
        window: number of points to remember, instead of `power` and `offset`; None to go by those.
        n_first: points to start from; None for 20 a component and at least twice the features.
        n_known: points that `known` was learnt from; 0 to let `em` go on from there with the first points.

    Raises:
        ValueError: an option out of range, or a covariance family whose statistics can't be averaged (low_rank).
    """

    def __init__(
        self,
        em: EM,
        known: tuple[Parameters, Tensor] | None = None,
        *,
        power: float = 0.6,
        offset: float = 2.0,
        window: int | None = None,
        n_first: int | None = None,
        n_known: int = 0,
    ) -> None:
        if not 0.5 < power <= 1:
            raise ValueError(f"power: expected a number above 1/2 and up to 1; got {power}")
        if offset < 1:
            raise ValueError(f"offset: expected at least 1; got {offset}")
        if window is not None and window < 1:
            raise ValueError(f"window: expected at least one point; got {window}")
        if not em.family.averages:
            raise ValueError(
                f"covariance_type: the statistics of {em.family.name!r} hang on the parameters of their batch, "
                "so they can't be averaged over batches; choose full, tied, diag or spherical"
            )
        if n_known < 0 or (n_known and known is None):
            raise ValueError(
                f"n_known: expected how many points the mixture's own parameters stand for, 0 where it has none; got "
                f"{n_known}"
            )
        if em.options.prior_count or em.options.weight_concentration > 1 or em.options.shrinkage:
            raise ValueError("expected no prior and no shrinkage on a stream: raise reg_covar instead")
        k, d = em.n_components, em.n_features
        self.em, self.known = em, known
        self.power, self.offset, self.window = power, offset, window
        self.n_first = max(20 * k, 2 * d) if n_first is None else n_first
        if self.n_first < k:
            raise ValueError(f"n_first: expected at least as many points as components ({k}); got {self.n_first}")
        self.n_updates = 0
        self._first: list[tuple[Tensor, Tensor | None]] = []
        self._n_waiting = 0
        self._ill_conditioned: Tensor | None = None
        self.n_known = n_known
        if known is not None and n_known:
            self._go_on(*known)

    @property
    def started(self) -> bool:
        """Whether there were enough points to start from."""
        return self.em.done

    @torch.inference_mode(False)
    @torch.no_grad()
    def update(self, x: Array, sample_weight: Array | None = None) -> Self:
        """Take in a batch.

        Args:
            x: (n, D); gradients do not flow through. Rows that are not finite are left out.
            sample_weight: (n,), >= 0; `window` counts points of the first points' mean weight.

        Raises:
            ValueError, TypeError: wrong shape or type.
        """
        x = readable(x)
        check_points(x, self.em.n_features)
        x = as_tensor(x).detach().to(self.em.device)
        weight = None if sample_weight is None else check_weight(sample_weight, len(x)).to(x.device)
        with full_precision(x.device):
            if self.started:
                self._step(x, weight)
                return self
            self._first.append((x.clone(), weight))
            self._n_waiting += sum_of_all(len(x), self.em.device)
            if self._n_waiting >= self.n_first:
                self._start()
        return self

    @torch.no_grad()
    def result(self) -> tuple[Parameters, Tensor]:
        """Parameters about the location (D,) in raw units, and the location, as they are now.

        Looks for components that have become too ill-conditioned for float32, and waits for the device to do so:
        call it now and then.

        Raises:
            NotFittedError: not enough points have come yet.
        """
        if not self.started:
            raise NotFittedError(
                f"expected {self.n_first} points to start from; got {self._n_waiting}: give more first"
            )
        self._check_conditioning()
        return self.now()

    def now(self) -> tuple[Parameters, Tensor]:
        """`result` without the look, so without waiting: for use within a training step, once `started`."""
        one = self.parameters.map(lambda value: value[0])
        return self.em.standardisation.undo(self.em.family, one), self.em.standardisation.location

    # ---- the first points

    def _start(self) -> None:
        x = torch.cat([batch for batch, _ in self._first])
        weights = [torch.ones(len(b), device=b.device) if w is None else w for b, w in self._first]
        weight = torch.cat([w.double() for w in weights])
        good = torch.isfinite(x).all(1)
        x, weight = torch.where(good[:, None], x, 0), weight * good  # of weight zero: not there
        em, batches = self.em, [(x, weight)]
        if self.known is not None:
            em.run(batches, until="assign")
            known = em.standardisation.parameters(em.family, *self.known)
            em.begin(known.map(lambda value: value[None]))
        em.run(batches)
        self.parameters = em.parameters.map(lambda value: value[em.best : em.best + 1])
        self._check_conditioning()
        self.n_seen, moments = _summed(self._e_step(x, weight))
        self.moments = {name: value / self.n_seen for name, value in moments.items()}
        self._first, self._n_waiting = [], 0

    @torch.inference_mode(False)
    @torch.no_grad()
    def _go_on(self, parameters: Parameters, location: Tensor) -> None:
        """Begin with what parameters about a location (D,) say of `n_known` points."""
        em = self.em
        with full_precision(em.device):
            em.take_over(parameters, location)
            self.parameters = em.parameters
            self._check_conditioning()
            one = self.parameters.map(lambda value: value[0])
            dense = em.family.dense(one.factors, em.n_components, em.n_features)
            moments = moments_of(em.family, one, one.log_weights.softmax(-1), one.means, dense)
            self.moments = {name: value[None] for name, value in moments.items()}
        self.n_seen = torch.full((), self.n_known, dtype=torch.float64, device=em.device)

    def _check_conditioning(self) -> None:
        if self.em.dtype != torch.float64:
            [flags] = look("conditioning", are_ill_conditioned(self.em.family, self.parameters))
            self._ill_conditioned = flagged(flags, self.em.device)

    # ---- every later batch

    def _e_step(self, x: Tensor, weight: Tensor | None) -> Statistics:
        em = self.em
        step = EStep(em.family, self.parameters, em.penalty, em.standardisation, em.dtype, self._ill_conditioned)
        return step(x, em.relative(weight, len(x)))

    def _step(self, x: Tensor, weight: Tensor | None) -> None:
        finite = torch.isfinite(x).all(1)
        x = torch.where(finite[:, None], x, torch.zeros_like(x))
        weight = finite.double() if weight is None else weight * finite
        total_weight, moments = _summed(self._e_step(x, weight))
        self.n_seen = self.n_seen + total_weight
        some = total_weight > 0
        if self.window is None:
            # What is known counts as so many batches, of the mean size of those of all processes.
            batches = (self.n_updates + 1) * (self.n_seen / (self.n_seen - self.n_known).clamp_min(TINY))
            rate = some.double() * (batches + self.offset) ** -self.power
        else:
            rate = (total_weight / self.n_seen.clamp_max(self.window)).clamp_max(1)
        total_weight = torch.where(some, total_weight, torch.ones_like(total_weight))
        self.moments = {
            name: value + rate * (moments[name] / total_weight - value) for name, value in self.moments.items()
        }
        self.parameters, _ = self.em.family.update(self.moments, self.em.reg_covar, self.parameters)
        self.n_updates += 1

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on with the next batch."""
        state: dict[str, Any] = {"em": self.em.state_dict(), "first": list(self._first)}
        state |= {"n_updates": self.n_updates, "n_known": self.n_known}
        if self.started:
            state |= {"parameters": self.parameters.state_dict(), "moments": dict(self.moments), "n_seen": self.n_seen}
            state["ill_conditioned"] = self._ill_conditioned
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of an `OnlineEM` with the same family, sizes and options."""
        state = tree_map_only(Tensor, lambda value: value.to(self.em.device), state)
        self.em.load_state_dict(state["em"])
        self.n_updates, self.n_known, self._first = state["n_updates"], state["n_known"], list(state["first"])
        self._n_waiting = sum(len(x) for x, _ in self._first)
        if self.started:
            self.parameters = Parameters.from_state_dict(state["parameters"])
            self.moments, self.n_seen = dict(state["moments"]), state["n_seen"]
            self._ill_conditioned = state["ill_conditioned"]


def _summed(total: Statistics) -> tuple[Tensor, dict[str, Tensor]]:
    """Total weight and moments, summed over the processes."""
    total_weight, *moments = all_reduce_sum([total.total_weight, *total.moments.values()])
    return total_weight, dict(zip(total.moments, moments, strict=True))
