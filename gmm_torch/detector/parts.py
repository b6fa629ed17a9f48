"""What a detector is made of, on which device and in which precision, and its state dict."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.conformal.calibration import Calibration, Unlabelled
from gmm_torch.detector.description import as_class_names
from gmm_torch.detector.examples import Examples
from gmm_torch.detector.known_weights import KnownWeights
from gmm_torch.detector.seen_inputs import SeenInputs
from gmm_torch.detector.state import found_sizes, make_room_for_state
from gmm_torch.detector.summary import summary
from gmm_torch.detector.valid_range import ValidRange
from gmm_torch.errors import InputsWarning, NotFittedError, PrecisionWarning, warn
from gmm_torch.features.extractor import FeatureExtractor
from gmm_torch.features.features import Features
from gmm_torch.features.input_format import KnownFormat, warning_of
from gmm_torch.features.precision import at_least_float32, leave_inference_mode
from gmm_torch.mixture.density import is_traced
from gmm_torch.scores import Score

HELD_OUT_SHARE = 1 / 5  # of the fitting inputs, at most, that a score ranks its parts among


class DetectorParts(nn.Module):
    """The parts of a `FailureDetector`, and what holds them together.

    Attributes:
        extractor: from a batch to logits and features.
        score: from these to a number for each input.
        calibration: from that to a p-value.
        examples: fitting and labelled inputs that explanations refer to.
        valid_range: of logits and features; no score is trusted beyond.
        seen: inputs that it learned from, which it must not be calibrated on.
        seed: of the mixtures' initialisation.
        widths: layer -> D; nothing before a fit.
        n_classes: C of the logits that it was fitted to; 0 before that.
        preprocessing: how inputs became what the network takes, and which of them it saw, for whoever prepares others:
            names, and words, numbers or lists of these. Nothing here depends on it, and it is empty unless it was set.
        n_fitted, n_kept: inputs that it was fitted to, and how many of them were kept for that.
        precision: of the classifier on the calibration inputs; see `Features.precision`.
        format: of the calibration inputs, where they are images.
    """

    def __init__(
        self, extractor: FeatureExtractor, score: Score, calibration: Calibration, alpha: float, seed: int
    ) -> None:
        super().__init__()
        self.score = score
        self.extractor = extractor
        self.calibration = calibration
        self.examples = Examples()
        self.valid_range = ValidRange()
        self.seen = SeenInputs()
        self.alpha = alpha
        self.seed = seed
        self.n_classes = self.n_fitted = self.n_kept = 0
        self.widths: dict[str, int] = {}
        self.precision = ""
        self.format = KnownFormat()
        self.preprocessing: dict[str, Any] = {}
        self.class_names = ()
        self._weights_known: KnownWeights | None = None
        self._warned_of: set[str] = set()
        self.register_load_state_dict_post_hook(leave_inference_mode)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_settle)  # type: ignore[no-untyped-call]

    def held_out_of(self, n: int) -> int:
        """How many of n fitting inputs the mixtures are not fitted to: what the score ranks its parts among."""
        return min(self.score.n_reference, max(2, int(n * HELD_OUT_SHARE)))

    @property
    def alpha(self) -> float:
        """The share of inputs like those of the calibration set that is refused at most, on average over such sets.

        Nothing is fitted again to change it.

        Raises, when set:
            ValueError: outside (0, 1), or, once calibrated, with too few calibration inputs to refuse anything.
        """
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.calibration.target(alpha)
        self._alpha = float(alpha)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes, one each, for explanations; none unless they were set. No verdict depends on them.

        Raises, when set:
            ValueError: something else than words.
        """
        return self._class_names

    @class_names.setter
    def class_names(self, names: Iterable[str]) -> None:
        self._class_names = as_class_names(names)

    @property
    def classifier(self) -> nn.Module:
        """The classifier, unchanged."""
        return self.extractor.classifier

    @property
    def device(self) -> torch.device:
        """Where the classifier is."""
        tensor = next(self.classifier.parameters(), next(self.classifier.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    def __repr__(self) -> str:
        return summary(self)

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes: float32, or float64 where it was fitted to such outputs or moved to that type."""
        return self.valid_range.largest.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert; only the classifier becomes narrower than float32."""
        for name, module in self.named_children():
            change = fn if name == "extractor" else at_least_float32(fn)
            module._apply(change, recurse)
        return self

    def calibrated_in(self, precision: str, format: KnownFormat) -> None:
        """Remember the classifier's precision on the calibration inputs, see `Features.precision`, and their format."""
        self.precision, self.format = precision, format
        self._warned_of.clear()

    def know_weights(self) -> None:
        """Remember the classifier's weights, where the detector is calibrated on what they give."""
        self._weights_known = KnownWeights(self.classifier) if len(self.calibration) else None

    def check_weights(self, *, exact: bool = False) -> None:
        """Raise ValueError where the classifier has other weights than at calibration; see `KnownWeights`."""
        if self._weights_known is None or is_traced() or self._weights_known.are_of(self.classifier, exact=exact):
            return
        raise ValueError(
            "classifier: expected the weights on which the detector was calibrated; got others, of which its p-values "
            "say nothing: fit and calibrate again, or load those weights"
        )

    def build(self, widths: dict[str, int], n_classes: int) -> None:
        """Make room for features of these widths (layer -> D) and C classes, for `fit` or a stored state to fill."""
        self.widths, self.n_classes = widths, n_classes
        self.score.build(widths, len(self.extractor.views), n_classes)
        self.valid_range.build(len(widths))

    def get_extra_state(self) -> Tensor:
        """What `load_state_dict` must know before it can make room for the tensors: JSON as bytes, (B,) uint8."""
        return torch.frombuffer(bytearray(json.dumps(found_sizes(self)).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing is left to do: room is made before the parts of the detector are loaded."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        make_room_for_state(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def check_fitted(self) -> None:
        """Raise `NotFittedError` before a fit."""
        if not self.widths:
            raise NotFittedError("the detector has not been fitted yet: call fit(loader) first")

    def beside(self, outputs: Features) -> dict[str, Tensor]:
        """Arguments of the calibration's methods for these inputs, except their scores."""
        predictions, log_weight = outputs.own_logits.argmax(-1), None
        if self.calibration.needs_adapt:  # others need no statistics
            with torch.no_grad():
                log_weight = self.calibration.log_weights(Unlabelled(self.score.statistics(outputs), predictions))
        return {"predictions": predictions} | ({} if log_weight is None else {"log_weight": log_weight})

    def threshold(self, predictions: Tensor, log_weight: Tensor | None = None) -> Tensor:
        """The score at and above which an input is accepted, (N,), for predicted classes (N,).

        Args:
            predictions: (N,) int64.
            log_weight: (N,), for a calibration with weights, as `beside` gives it; without them the score below which
                every input is refused.
        """
        return self.calibration.threshold(self.alpha, predictions, log_weight=log_weight)

    def bounded(self, score: Tensor, outputs: Features) -> Tensor:
        """Scores (N,), minus infinity where an input is outside the valid range or its score is not a number."""
        score = torch.nan_to_num(score, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        return torch.where(self.valid_range(outputs), score, -torch.inf)

    def check_calibrated_for(self, outputs: Features) -> None:
        """Warn, once for each, of inputs that look other than the calibration inputs, and of another precision."""
        other = self.format.differences(outputs.format)
        if other and not other.keys() <= self._warned_of:
            self._warned_of.update(other)
            warn(warning_of(other), InputsWarning)
        found = outputs.precision
        if not (found and self.precision) or found == self.precision or found in self._warned_of:
            return
        self._warned_of.add(found)
        warn(
            f"classifier: expected outputs in {self.precision}, as at calibration; got {found}: p-values are valid as "
            "far as rounding leaves the scores alike; calibrate in this precision to be sure",
            PrecisionWarning,
        )


def _settle(detector: DetectorParts, _: Any) -> None:
    """A state's calibration scores must suffice for the detector's alpha; the classifier's weights came with them."""
    detector.calibration.target(detector.alpha)
    detector.know_weights()
