"""From scores to p-values, by rank among the scores of held-out inputs."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from gmm_torch.checks import check_finite_scores, check_probability
from gmm_torch.conformal.calibration_conditional import realised_rate
from gmm_torch.conformal.p_values import (
    calibration_size,
    conformal_p_value,
    exceeds,
    rank,
    smoothed_p_value,
    threshold_index,
)
from gmm_torch.errors import NotFittedError
from gmm_torch.registry import register

CALIBRATIONS: dict[str, type["Calibration"]] = {}  # by name


class Calibration(nn.Module):
    """Scores of calibration inputs, and the p-values that follow from them.

    The guarantee: for an input exchangeable with the calibration inputs, P(p <= a) <= a, on average over calibration
    sets. It says nothing about inputs from elsewhere, which is what small p-values are for.

    Subclasses have a `name` of their own by which configurations and files find them: `MondrianCalibration` holds the
    guarantee in every predicted class, `ConditionalCalibration` for the calibration set at hand. This one ignores
    predictions.
    """

    name: ClassVar[str] = "marginal"
    sized: ClassVar[tuple[str, ...]] = ("scores",)  # buffers with a number for each calibration input
    is_weighted: ClassVar[bool] = False  # whether it is for images from elsewhere, by weights
    eased_by: ClassVar[str] = "a larger alpha"  # what takes fewer calibration inputs
    scores: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register(CALIBRATIONS, cls)

    def __init__(self, scores: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("scores", torch.empty(0) if scores is None else scores)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def grid(self) -> int | None:
        """n + 1 where every p-value is a multiple of 1 / (n + 1); None for a subclass with p-values of its own."""
        return len(self) + 1 if type(self).p_value is Calibration.p_value else None

    def fit(self, scores: Tensor, alpha: float, *, predictions: Tensor | None = None) -> Self:
        """Take over calibration scores (n,), finite.

        Raises:
            ValueError: not finite, or too few for a p-value to be <= alpha; the message says how many it takes.
        """
        check_finite_scores(scores)
        self.require(alpha, len(scores))
        self.scores = scores.detach().sort().values
        self._index()
        return self

    def smallest(self, alpha: float) -> int:
        """The fewest calibration inputs with which a p-value can be <= alpha."""
        return calibration_size(alpha)

    def target(self, alpha: float) -> Self:
        """Be as if fitted at another alpha; without scores there is nothing to do.

        Raises:
            ValueError: as for `fit`; nothing has changed then.
        """
        check_probability("alpha", alpha)
        if len(self):
            self.require(alpha, len(self))
        return self

    def suffices(self, alpha: float, n: int) -> bool:
        """Whether n scores are enough for a p-value to be <= alpha."""
        return n >= self.smallest(alpha)

    def require(self, alpha: float, n: int) -> None:
        """Raise unless n scores are enough for a p-value to be <= alpha."""
        check_probability("alpha", alpha)
        if not self.suffices(alpha, n):
            options = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
            raise ValueError(
                f"calibration set: alpha={alpha:g}{f' with {options}' if options else ''} needs at least "
                f"{self.smallest(alpha)} inputs; got {n}: give more, or choose {self.eased_by}"
            )

    def describe(self, class_names: Sequence[str] | None = None) -> str:
        """How many scores there are and what they promise, in words; with names of the classes where there are some."""
        if not len(self):
            return "no scores yet, promises nothing"
        return "; ".join(filter(None, (f"scores of {len(self):,} calibration inputs", self.promise, self.extra_repr())))

    @property
    def promise(self) -> str:
        """What p-values hold, as a clause."""
        return "of inputs like these at most a share alpha is refused, on average over calibration sets"

    def options(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as JSON can hold them: the attributes of the same names."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters if name != "scores"}

    def fresh(self) -> Self:
        """Another one like this, without scores."""
        return type(self)(**self.options())

    def p_value(self, score: Tensor, predictions: Tensor | None = None, *, uniform: Tensor | None = None) -> Tensor:
        """(N,) p-values of scores (N,); see `conformal_p_value`.

        With `uniform`, (N,) independent draws from (0, 1] such as `stream_uniforms`, they are randomised: exactly
        uniform on clean inputs, ties or not; see `smoothed_p_value`.
        """
        self._check_fitted()
        if uniform is None:
            return conformal_p_value(score, self.scores)
        return smoothed_p_value(score, self.scores, uniform)

    def accepts(self, score: Tensor, predictions: Tensor | None = None, *, alpha: float) -> Tensor:
        """(N,) bool, whether p > alpha: the decision of every verdict, by rank; see `exceeds`."""
        self._check_fitted()
        return exceeds(1 + rank(score, self.scores), len(self.scores) + 1, alpha)

    def realised_rate(self, alpha: float, confidence: float = 0.95) -> tuple[float, float] | None:
        """Rates (low, high) between which good inputs are refused, in a share `confidence` of such calibration sets.

        None for a calibration whose threshold is not one for all inputs.
        """
        self._check_fitted()
        return realised_rate(self._n_refused(alpha), len(self), confidence)

    def _n_refused(self, alpha: float) -> int:
        """How many of its own scores lie below the threshold, that at it included."""
        return threshold_index(alpha, len(self))

    def threshold(self, alpha: float) -> Tensor:
        """The score () at and above which `accepts`; minus infinity where everything is accepted."""
        self._check_fitted()
        k = self._n_refused(alpha)
        return self.scores[k - 1] if k else self.scores.new_full((), -torch.inf)

    def _index(self) -> None:
        """Rebuild what follows from the scores."""

    def _is_ordered(self) -> bool:
        return bool((self.scores.diff() >= 0).all())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.sized:
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor):  # as many as were saved
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
