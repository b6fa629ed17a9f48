"""The contract of a score."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from gmm_torch.checks import check_whole
from gmm_torch.devices import full_precision
from gmm_torch.features.features import Features
from gmm_torch.features.layers import PENULTIMATE
from gmm_torch.mixture import GaussianMixture
from gmm_torch.registry import register
from gmm_torch.scores.feature_mixture import FeatureMixture

# K of the mixtures of every score, but of `log_likelihood`, which has the 30 of the paper, and of one class.
N_COMPONENTS = 10
# Fits a mixture to features (N, D) in place. The default is the mixture's own `fit`; a Trainer may take its place.
Fitter = Callable[[GaussianMixture, Tensor], Any]


class Breakdown(NamedTuple):
    """Scores of N inputs and the contributions of their parts."""

    score: Tensor  # (N,)
    p_values: dict[str, Tensor]  # (N,) of each combined score among the reference inputs
    influence: dict[str, Tensor]  # (N,), decrease of the score through each; the largest part dominates
    n_reference: int = 0  # number of reference inputs


SCORES: dict[str, type["Score"]] = {}  # by name; filled as subclasses with a name are defined


class Score(nn.Module):
    """A statistic of a classifier's outputs: higher = more typical, so safer to trust.

    A score is built from options that JSON can hold and keeps everything it learns in its state dict, so that a
    detector can be stored without code.

    Attributes:
        name: in configurations and files.
        in_words: name in explanations; by default `name`.
        differentiable: True if the score has a useful gradient with respect to the input.
        layers, pooling, views: the features that it is meant for; see `FeatureExtractor`.
        reads_features: False if it reads logits alone.
        n_reference: minimum number of held-out inputs to rank its parts among; `hold_out` and `set_reference`
            give them. 0 for a score that ranks nothing.
        needs_labels: True if `fit` needs `Features.labels`; only where an option asks for it.
        needs_labels_to_calibrate: True if calibration needs labels.
        default_weights: weight in the default score with several views and with one view; a class that sets them is
            part of it. See `Combined`.
        min_layers: with fewer layers the default leaves it out.
        min_views, min_classes: with fewer it can't be built.
    """

    name: ClassVar[str]
    in_words: ClassVar[str] = ""
    differentiable: ClassVar[bool] = True
    layers: ClassVar[str] = PENULTIMATE
    pooling: ClassVar[str] = "mean"
    views: ClassVar[tuple[str, ...]] = ("identity",)
    reads_features: ClassVar[bool] = True
    n_reference: ClassVar[int] = 0
    needs_labels: bool = False
    needs_labels_to_calibrate: ClassVar[bool] = False
    default_weights: ClassVar[tuple[float, float]]
    min_layers: ClassVar[int] = 1
    min_views: ClassVar[int] = 1
    min_classes: ClassVar[int] = 1
    n_components: int = 0  # asked for; 0 without mixtures

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register(SCORES, cls)

    def reads(self, layers: Sequence[str], n_views: int) -> dict[str, int]:
        """Number of views, from the first, whose features it reads, by layer; nothing else is caught.

        Args:
            layers: the detector's.
            n_views: of an input.
        """
        return dict.fromkeys(layers, n_views) if self.reads_features else {}

    @classmethod
    def chosen_views(cls, views: int | Sequence[str] | None) -> tuple[str, ...]:
        """The views of an input: the first n that the score is meant for, those named, or all.

        Raises:
            ValueError: a number that it is not meant for.
        """
        if views is None:
            return cls.views
        if isinstance(views, str):
            raise ValueError(f"views: expected a number or several names; got {views!r}: write ({views!r},) for one")
        if isinstance(views, Sequence):
            return tuple(views)
        check_whole("views", views)
        most = len(cls.views)
        if not 1 <= views <= most:
            expected = f"1 to {most}" if most > 1 else "1, the input alone,"
            raise ValueError(
                f"views: expected {expected} for the score {cls.name!r}; got {views}: take fewer, or name others, "
                'such as views=("identity", "mirror")'
            )
        return cls.views[:views]

    @property
    def ever_needs_labels(self) -> bool:
        """True if `fit` or calibration needs labels."""
        return self.needs_labels or self.needs_labels_to_calibrate

    def options(self) -> dict[str, Any]:
        """The constructor's keyword arguments for JSON: the attributes of the same names."""
        arguments = inspect.signature(type(self)).parameters.values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # of a class without a constructor
        return {each.name: getattr(self, each.name) for each in arguments if each.kind not in variable}

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        """Create the tensors for features of these widths (layer -> D), for `fit` or a stored state to fill.

        Raises:
            ValueError: fewer views or classes than it needs.
        """
        if n_views < self.min_views or n_classes < self.min_classes:
            raise ValueError(
                f"{self.name}: expected views >= {self.min_views} and classes >= {self.min_classes}; got {n_views} and "
                f"{n_classes}: take another score"
            )
        return self

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        """Learn from the outputs on fitting inputs; never sees a failure, nor a label unless `needs_labels`."""
        return self

    def hold_out(self, statistics: Tensor) -> Self:
        """Store `statistics` of fitting inputs that `fit` did not see, in random order, if there is `n_reference`."""
        return self

    def set_reference(self, statistics: Tensor, wrong: Tensor | None = None) -> Self:
        """Store `statistics` (N, S) of clean inputs as reference, if there is `n_reference`; they serve nothing else.

        `wrong` (N,) bool marks wrong predictions, for a score with `needs_labels_to_calibrate`. It is no part of the
        statistics: weights and p-values of an input never depend on its label.
        """
        return self

    def statistics(self, outputs: Features) -> Tensor:
        """Numbers that the score needs of each input, (N, J), in place of its outputs; by default itself, J = 1."""
        return self(outputs)[:, None]

    def combine(self, statistics: Tensor) -> Tensor:
        """The score, (N,), from `statistics` (N, J)."""
        return statistics[:, 0]

    def __call__(self, outputs: Features) -> Tensor:
        """`forward` without autocast, which is for the classifier alone."""
        with full_precision(outputs.logits.device):
            result: Tensor = super().__call__(outputs)
        return result

    def forward(self, outputs: Features) -> Tensor:
        """(N,)."""
        raise NotImplementedError

    # ---- explanations

    def models(self) -> dict[str, FeatureMixture]:
        """Its mixtures by the name of their part or layer."""
        return {}

    @property
    def component_of(self) -> str | None:
        """Name of the mixture whose component is reported for an input: the first."""
        return next(iter(self.models()), None)

    def shares(self) -> dict[str, float]:
        """Weights of the scores that it combines, by name; empty on "meta"."""
        return {}

    def breakdown(self, outputs: Features) -> Breakdown:
        """The score and its parts."""
        return Breakdown(self(outputs), {}, {})

    def components(self, outputs: Features) -> Tensor:
        """(N, J) int64, the most probable component of each of its J mixtures."""
        found = [model.mixture.predict(model.points(outputs)) for model in self.models().values()]
        return torch.stack(found, dim=1) if found else outputs.logits.new_empty(len(outputs.logits), 0).long()
