"""Calibrations: from scores to p-values, by rank among the scores of held-out inputs."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from gmm_torch.checks import check_finite_scores, check_probability
from gmm_torch.conformal.p_values import (
    calibration_size,
    conformal_p_value,
    exceeds,
    rank,
    realised_rate,
    smoothed_p_value,
    threshold_index,
)
from gmm_torch.errors import NotFittedError
from gmm_torch.registry import find, register

__all__ = ["CALIBRATIONS", "Calibration", "Unlabelled", "make_calibration"]

CALIBRATIONS: dict[str, type["Calibration"]] = {}  # by name


class Unlabelled(NamedTuple):
    """Inputs as weights see them. Labels are never part of it, so no weight depends on who has labels.

    Attributes:
        statistics: (N, S), see `Score.statistics`.
        predictions: (N,) int64, predicted classes.
    """

    statistics: Tensor
    predictions: Tensor


class Calibration(nn.Module):
    """Scores of calibration inputs, and the p-values that follow from them.

    The guarantee: for an input exchangeable with the calibration inputs, P(p <= a) <= a, on average over calibration
    sets. It says nothing about inputs from elsewhere, which is what small p-values are for.

    This calibration ignores predictions and weights. Each subclass has a unique `name`, by which configurations and
    files find it.

    Attributes:
        scores: (n,), ascending.
    """

    name: ClassVar[str] = "marginal"
    needs_adapt: ClassVar[bool] = False  # True: `adapt` comes before `fit`, and every method takes log-weights
    needs_labels: ClassVar[bool] = False  # True: `adapt` and `log_weights` take labels of reference and calibration
    remedy: ClassVar[str] = "a larger alpha"  # needs fewer calibration inputs
    promise: str = "at most a share alpha of inputs like these is refused, on average over calibration sets"
    _sized: ClassVar[tuple[str, ...]] = ("scores",)  # buffers with one number per calibration input
    scores: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register(CALIBRATIONS, cls)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scores", torch.empty(0))

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def grid(self) -> int | None:
        """n + 1 if every p-value is a multiple of 1 / (n + 1); None for a subclass with its own p-values."""
        return len(self) + 1 if type(self).p_value is Calibration.p_value else None

    def fit(
        self, scores: Tensor, alpha: float, *, predictions: Tensor | None = None, log_weight: Tensor | None = None
    ) -> Self:
        """Store calibration scores (n,), finite, with predicted classes (n,) and `log_weights` (n,) if needed.

        Raises:
            ValueError: not finite, or too few for a p-value to be <= alpha; the message says how many are needed.
        """
        check_finite_scores(scores)
        self.require(alpha, len(scores))
        self.scores = scores.detach().sort().values
        self._index()
        return self

    def adapt(self, reference: Unlabelled, deployment: Unlabelled, *, labels: Tensor | None = None) -> Self:
        """Learn weights from reference inputs, drawn like the calibration inputs, and deployment inputs.

        The scores are dropped: calibration inputs must differ from these inputs. `labels` (n,) are those of the
        reference inputs, for a calibration that `needs_labels`.

        Raises:
            TypeError: this calibration has no weights.
        """
        self.require_adapt()
        raise NotImplementedError

    def require_adapt(self) -> None:
        """Raise TypeError unless `adapt` can teach this calibration weights."""
        if not self.needs_adapt:
            adapting = " or ".join(cls.__name__ for _, cls in sorted(CALIBRATIONS.items()) if cls.needs_adapt)
            raise TypeError(f"calibration: expected one with weights to adapt, {adapting}; got {self.name!r}")

    def log_weights(self, sample: Unlabelled, labels: Tensor | None = None) -> Tensor | None:
        """(N,) log-weights of inputs for the other methods; None for a calibration without weights.

        `labels` (N,) are those of calibration inputs, for a calibration that `needs_labels`; new inputs have none.
        """
        return None

    def smallest(self, alpha: float) -> int:
        """Smallest number of calibration inputs with which a p-value can be <= alpha."""
        return calibration_size(alpha)

    def target(self, alpha: float) -> Self:
        """Switch to another alpha without new scores.

        Raises:
            ValueError: as for `fit`; nothing has changed then.
        """
        check_probability("alpha", alpha)
        if len(self):
            self.require(alpha, len(self))
        return self

    def require(self, alpha: float, n: int) -> None:
        """Raise ValueError unless n scores are enough for a p-value to be <= alpha."""
        check_probability("alpha", alpha)
        if not self._suffices(alpha, n):
            options = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
            raise ValueError(
                f"calibration set: alpha={alpha:g}{f' with {options}' if options else ''} needs at least "
                f"{self.smallest(alpha)} inputs; got {n}: give more, or choose {self.remedy}"
            )

    def describe(self, class_names: Sequence[str] | None = None) -> str:
        """Description of the scores and their guarantee."""
        if not len(self):
            return "no scores yet, promises nothing"
        return "; ".join(filter(None, (f"scores of {len(self):,} calibration inputs", self.promise, self.extra_repr())))

    def options(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as JSON can hold them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def fresh(self) -> Self:
        """A copy without scores."""
        return type(self)(**self.options())

    def p_value(
        self,
        score: Tensor,
        predictions: Tensor | None = None,
        *,
        log_weight: Tensor | None = None,
        uniform: Tensor | None = None,
    ) -> Tensor:
        """(N,) p-values of scores (N,); see `conformal_p_value`.

        With `uniform`, (N,) independent draws from (0, 1] such as `stream_uniforms`, they are randomised: exactly
        uniform on clean inputs, ties or not; see `smoothed_p_value`.
        """
        self._check_fitted()
        if uniform is None:
            return conformal_p_value(score, self.scores)
        return smoothed_p_value(score, self.scores, uniform)

    def accepts(
        self, score: Tensor, predictions: Tensor | None = None, *, log_weight: Tensor | None = None, alpha: float
    ) -> Tensor:
        """(N,) bool, p > alpha: the decision of every verdict, by rank; see `exceeds`."""
        self._check_fitted()
        return exceeds(1 + rank(score, self.scores), len(self.scores) + 1, alpha)

    def threshold(self, alpha: float, predictions: Tensor | None = None, *, log_weight: Tensor | None = None) -> Tensor:
        """Scores at and above which `accepts` accepts inputs; minus infinity if it accepts all.

        Returns:
            (N,) for predictions (N,), and `log_weights` (N,) if needed; () without.
        """
        self._check_fitted()
        k = self._n_refused(alpha)
        found = self.scores[k - 1] if k else self.scores.new_full((), -torch.inf)
        return found if predictions is None else found.expand(predictions.shape)

    def realised_rate(self, alpha: float, confidence: float = 0.95) -> tuple[float, float] | None:
        """Rates (low, high) between which good inputs are refused, for a share `confidence` of calibration sets.

        None if the threshold differs between inputs.
        """
        self._check_fitted()
        return realised_rate(self._n_refused(alpha), len(self), confidence)

    def _n_refused(self, alpha: float) -> int:
        """Number of own scores up to the threshold, included."""
        return threshold_index(alpha, len(self))

    def _suffices(self, alpha: float, n: int) -> bool:
        return n >= self.smallest(alpha)

    def _index(self) -> None:
        """Rebuild what follows from the scores."""

    def _is_ordered(self) -> bool:
        return bool((self.scores.diff() >= 0).all())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self._sized:
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor):  # make room
                setattr(self, name, getattr(self, name).new_empty(value.shape, dtype=value.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.scores.dim() != 1 or not self.scores.is_floating_point():
            raise ValueError(f"calibration scores: expected (n,) numbers; got {self.scores.dtype} {self.scores.shape}")
        if not (bool(torch.isfinite(self.scores).all()) and self._is_ordered()):
            raise ValueError("calibration scores: expected finite numbers in ascending order; the state is damaged")
        if len(self):
            self._index()

    def _check_fitted(self) -> None:
        if len(self.scores) == 0:
            raise NotFittedError("no calibration scores yet: call calibrate(loader) with held-out inputs first")


register(CALIBRATIONS, Calibration)


def make_calibration(name: str, **options: Any) -> Calibration:
    """A calibration by name, without scores.

    Raises:
        ValueError: no calibration has that name.
    """
    return find(CALIBRATIONS, name, "calibration")(**options)
