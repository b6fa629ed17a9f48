"""EM on a stream: each batch updates the mixture and is then forgotten."""

from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gmm_torch.checks import check_count
from gmm_torch.devices import full_precision
from gmm_torch.distributed import sum_of_all
from gmm_torch.errors import NotFittedError
from gmm_torch.mixture.batches import Array, as_tensor, check_points, check_weight, readable
from gmm_torch.mixture.covariance import Factors
from gmm_torch.mixture.data_summary import DataSummary
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.statistics import Statistics, moments_of, stand_ins

__all__ = ["OnlineEM"]

# Of the step size: a power in (1/2, 1], smaller ones forget faster, and an offset >= 1, larger ones start more slowly.
_POWER, _OFFSET = 0.6, 2.0
_TINY = torch.finfo(torch.float64).tiny


class OnlineEM:
    """Stepwise EM (Cappe and Moulines 2009, equation 10; Liang and Klein 2009, section 3).

    A step is an iteration of `em` whose statistics are a running mean over the batches,
    s <- (1 - g) s + g s_batch with g = (t + 2)^-0.6. `update` neither reads a number from the device nor keeps
    the batch, so it can follow a training step.

    With `window`, for a stream that never settles, g = n_batch / min(n_seen, window): all points count alike until
    there are `window` of them, then points have a half-life of 0.7 `window` points.

    The first `n_first` points are kept and fitted by `em`, which also sets coordinates and regularisation; with
    parameters known from `n_known` other points, none are needed. Batches should be mixed: if each holds points of one
    kind, the mixture describes the last ones.

    With a process group of torch.distributed, every process gives its own batches, in as many calls as the others, and
    all get the same mixture. `n_first` then counts the points of all processes.

    Args:
        em: a new EM; it makes `max_iter` iterations on the first points.
        known: initial parameters with means relative to a location (D,), and the location; None to initialise.
        window: number of points to remember.
        n_first: points to start from; None for 20 per component and at least twice the features.
        n_known: number of points behind `known`; 0 lets `em` continue from `known` on the first points.

    Raises:
        ValueError: an option out of range, or a covariance family whose statistics can't be averaged (low_rank).
    """

    def __init__(
        self,
        em: EM,
        known: tuple[Parameters, Tensor] | None = None,
        *,
        window: int | None = None,
        n_first: int | None = None,
        n_known: int = 0,
    ) -> None:
        if not em.family.averages:
            raise ValueError(
                f"covariance_type: expected full, tied, diag or spherical on a stream; got {em.family.name!r}"
            )
        if em.options.prior_count or em.options.weight_concentration > 1 or em.options.shrinkage:
            raise ValueError("expected no prior and no shrinkage on a stream: raise reg_covar instead")
        k, d = em.n_components, em.n_features
        self.em, self.known, self.window = em, known, window
        self.n_first = max(20 * k, 2 * d) if n_first is None else n_first
        check_count("window", 1 if window is None else window)
        check_count("n_first", self.n_first, at_least=k)
        if n_known < 0 or (n_known and known is None):
            raise ValueError(f"n_known: expected 0 for a mixture without parameters, else at least 0; got {n_known}")
        self.n_updates, self.n_known = 0, n_known
        self.moments: Factors = {}  # per point
        self.n_seen = torch.full((), n_known, dtype=torch.float64, device=em.device)
        self._first: list[tuple[Tensor, Tensor | None]] = []
        self._n_waiting = 0
        if known is not None and n_known:
            with full_precision(em.device):
                self._start_from(*known)

    @property
    def started(self) -> bool:
        """True once there were enough points to start from."""
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
                self._step(*_finite(x, weight))
                return self
            self._first.append((x.clone(), weight))
            self._n_waiting += sum_of_all(len(x), self.em.device)
            if self._n_waiting >= self.n_first:
                self._start()
        return self

    @torch.no_grad()
    def result(self) -> tuple[Parameters, Tensor]:
        """Current parameters in raw units about a location (D,), and the location.

        Looks for components too ill-conditioned for float32, which waits for the device: call it now and then.

        Raises:
            NotFittedError: not enough points have come yet.
        """
        if not self.started:
            raise NotFittedError(
                f"expected {self.n_first} points to start from; got {self._n_waiting}: give more first"
            )
        self.em.start(self.em.parameters, "done")
        return self.now()

    def now(self) -> tuple[Parameters, Tensor]:
        """`result` without the look, so without waiting; call it once `started`."""
        one = self.em.parameters.map(lambda value: value[0])
        return self.em.standardisation.undo(self.em.family, one), self.em.standardisation.location

    def _start(self) -> None:
        """Fit the first points."""
        weights = [torch.ones(len(x), device=x.device) if weight is None else weight for x, weight in self._first]
        x, weight = _finite(torch.cat([x for x, _ in self._first]), torch.cat([each.double() for each in weights]))
        em, batches = self.em, [(x, weight)]
        if self.known is not None:
            em.run(batches, until="assign")
            known = em.standardisation.parameters(em.family, *self.known)
            em.start(known.map(lambda value: value[None]))
        em.run(batches)
        best = slice(em.best, em.best + 1)
        em.history, em.jitter = [value[best] for value in em.history], em.jitter[best]
        em.start(em.parameters.map(lambda value: value[best]), "done")
        self.n_seen, self.moments = self._means(x, weight)
        self._first, self._n_waiting = [], 0

    @torch.inference_mode(False)
    @torch.no_grad()
    def _start_from(self, parameters: Parameters, location: Tensor) -> None:
        """Start from parameters about a location (D,); points that stand for them replace the first points."""
        em = self.em
        wide = parameters.map(lambda value: value.double())
        dense = em.family.dense(wide.factors, em.n_components, em.n_features)
        batches = stand_ins(wide.log_weights.softmax(-1), wide.means, dense)
        total = em.collect((x + location, weight.sum(0) * em.n_components) for x, weight in batches)
        assert isinstance(total, DataSummary)
        em.standardise(total)
        em.mean_weight = 1.0
        one = em.standardisation.parameters(em.family, parameters, location)
        em.start(one.map(lambda value: value[None]), "done")
        dense = em.family.dense(one.factors, em.n_components, em.n_features)
        moments = moments_of(em.family, one, one.log_weights.softmax(-1), one.means, dense)
        self.moments = {name: value[None] for name, value in moments.items()}

    def _means(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Factors]:
        """Total weight of a batch in all processes, and its moments per point."""
        total = self.em.accumulate(x, weight).reduce()
        assert isinstance(total, Statistics)
        n = torch.where(total.total_weight > 0, total.total_weight, torch.ones_like(total.total_weight))
        return total.total_weight, {name: value / n for name, value in total.moments.items()}

    def _step(self, x: Tensor, weight: Tensor) -> None:
        total_weight, moments = self._means(x, weight)
        self.n_seen = self.n_seen + total_weight
        if self.window is None:
            # Known points count as batches of the mean size.
            batches = (self.n_updates + 1) * (self.n_seen / (self.n_seen - self.n_known).clamp_min(_TINY))
            rate = (total_weight > 0).double() * (batches + _OFFSET) ** -_POWER
        else:
            rate = (total_weight / self.n_seen.clamp_max(self.window)).clamp_max(1)
        self.moments = {name: value + rate * (moments[name] - value) for name, value in self.moments.items()}
        em = self.em
        em.move_to(em.family.update(self.moments, em.reg_covar, em.parameters)[0])
        self.n_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values with which a later process can take in the next batch."""
        state: dict[str, Any] = {"em": self.em.state_dict(), "first": list(self._first), "moments": dict(self.moments)}
        return state | {"n_updates": self.n_updates, "n_known": self.n_known, "n_seen": self.n_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of an `OnlineEM` with the same family, sizes and options."""
        state = tree_map_only(Tensor, lambda value: value.to(self.em.device), state)
        self.em.load_state_dict(state["em"])
        self.n_updates, self.n_known, self.n_seen = state["n_updates"], state["n_known"], state["n_seen"]
        self._first, self.moments = list(state["first"]), dict(state["moments"])
        self._n_waiting = sum(len(x) for x, _ in self._first)


def _finite(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Points x (n, D) and weights (n,) or None, with rows that are not finite replaced by zeros of weight zero."""
    finite = torch.isfinite(x).all(1)
    return torch.where(finite[:, None], x, 0), finite.double() if weight is None else weight * finite
