"""P-values where classes come in other proportions: calibration inputs count as their class does there."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from gmm_torch.checks import check_classes, check_count, check_probability
from gmm_torch.conformal.class_weights import class_weights
from gmm_torch.conformal.weighted_scores import Sample, WeightedScores
from gmm_torch.devices import widest
from gmm_torch.mixture.density import is_traced


class LabelShiftCalibration(WeightedScores):
    """Calibration inputs weighted by how much more frequent their true class is at deployment.

    The guarantee: where classes have other proportions q(y) than p(y) among the calibration inputs, and inputs of each
    class look as they did, P(p <= a) <= a with the weights w(y) = q(y) / p(y), and <= a + sum_y p(y) |w'(y) - w(y)| / 2
    with other weights w' (Podkopaev and Ramdas 2021, "Distribution-free uncertainty quantification for classification
    under label shift", section 3). Calibration inputs need labels. A new input has none: it gets the largest weight of
    all classes, which can only raise its p-value.

    The weights are those of `class_weights`, of predictions for unlabelled deployment inputs and for labelled reference
    inputs, which come from where the calibration inputs come from, and are none of them.

    Args:
        n_classes: C of the classifier.
        confidence: of the intervals.
    """

    name = "label_shift"
    subject = "the deployment inputs' classes"
    needs_labels = True
    weights: Tensor
    low: Tensor
    high: Tensor
    error: Tensor

    def __init__(self, n_classes: int, confidence: float = 0.95) -> None:
        super().__init__()
        check_count("n_classes", n_classes)
        check_probability("confidence", confidence)
        self.n_classes, self.confidence = n_classes, confidence
        wide = widest(torch.get_default_device())
        for name in ("weights", "low", "high"):
            self.register_buffer(name, torch.zeros(n_classes, dtype=wide))  # (C,); intervals of the weights
        self.register_buffer("error", torch.zeros((), dtype=wide))
        self._has_weights = False  # known on the host: a verdict does not wait to read it

    @property
    def log_largest(self) -> Tensor:
        """See `WeightedScores`: that of the class whose share grew most."""
        return self.weights.max().log()

    @property
    def is_adapted(self) -> bool:
        """See `WeightedScores`."""
        return is_traced() or self._has_weights

    def adapt(self, reference: Sample, deployment: Sample) -> Self:
        """See `WeightedScores`; reads the predictions of both and the labels of the reference inputs."""
        labels = reference[2]
        if labels is None:
            raise ValueError("reference inputs: expected labels beside them; got none: give batches (x, label)")
        found = class_weights(reference[1], labels, deployment[1], self.n_classes, confidence=self.confidence)
        device = self.weights.device
        self.weights, self.low, self.high = (value.to(device, widest(device)) for value in found[:3])
        self.error = self.weights.new_tensor(found.error)
        self._has_weights = True
        self.forget()
        return self

    def log_weights(self, statistics: Tensor, predictions: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `WeightedScores`; of labels (N,), or the largest where there are none."""
        self._check_adapted()
        weights = self.weights.log()
        if labels is None:
            return weights.max().expand(predictions.shape)
        check_classes("labels", labels, self.n_classes)
        return weights[labels]

    def extra_repr(self) -> str:
        """What can be promised."""
        return self.describe()

    def describe(self, class_names: Sequence[str] | None = None) -> str:
        """See `Calibration`; numbers where there are no names."""
        if not self.is_adapted:
            return "no weights yet, promises nothing: adapt(deployment, reference)"
        names = [str(i) for i in range(self.n_classes)] if class_names is None else class_names
        if len(names) != self.n_classes:
            raise ValueError(f"class_names: expected {self.n_classes}, one a class; got {len(names)}")
        spans = zip(names, self.weights.tolist(), self.low.tolist(), self.high.tolist(), strict=True)
        words = ", ".join(f"{name}: {weight:.2g} ({low:.2g} to {high:.2g})" for name, weight, low, high in spans)
        rate = f"the rate may exceed alpha by {float(self.error):.2g}, with confidence {self.confidence:g}"
        same = bool(((self.low <= 1) & (self.high >= 1)).all())
        plain = "; no class has surely another share: try plain calibration first" if same else ""
        return f"weights by class {words}; {rate}{plain}; {self.in_words}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not bool((self.weights.isfinite() & (self.weights >= 0)).all()):
            raise ValueError("class weights: expected finite numbers, none below zero; the state is damaged")
        self._has_weights = bool((self.weights > 0).any())
