"""P-values for label shift: calibration inputs are weighted by their class."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from gmm_torch.checks import check_classes, check_count, check_probability
from gmm_torch.conformal.calibration import Unlabelled
from gmm_torch.conformal.weighted import WeightedScores
from gmm_torch.devices import widest
from gmm_torch.evaluation.rates import class_counts
from gmm_torch.mixture.density import is_traced

__all__ = ["ClassWeights", "LabelShiftCalibration", "class_weights"]

_MIN_SINGULAR_VALUE = 1e-3  # of the joint distribution, in units of 1 / C, the value of a perfect classifier


class LabelShiftCalibration(WeightedScores):
    """Calibration for label shift: each calibration input is weighted by how much more frequent its class has become.

    The guarantee: if classes have proportions q(y) instead of p(y), and inputs of each class look as before,
    P(p <= a) <= a with the weights w(y) = q(y) / p(y), and <= a + sum_y p(y) |w'(y) - w(y)| / 2 with other weights w'
    (Podkopaev and Ramdas 2021, "Distribution-free uncertainty quantification for classification under label shift",
    section 3). Calibration inputs need labels. A new input has no label: it gets the largest weight of all classes,
    which can only raise its p-value.

    The weights are `class_weights` of predictions for unlabelled deployment inputs and for labelled reference inputs,
    which are drawn like the calibration inputs, but must differ from them.

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
        self._has_weights = False  # on the host, so that a verdict does not wait to read it

    @property
    def log_largest(self) -> Tensor:
        """See `WeightedScores`: that of the class whose share grew most."""
        return self.weights.max().log()

    @property
    def is_adapted(self) -> bool:
        """See `WeightedScores`."""
        return is_traced() or self._has_weights

    def adapt(self, reference: Unlabelled, deployment: Unlabelled, *, labels: Tensor | None = None) -> Self:
        """See `Calibration`; uses predictions and labels alone.

        Raises:
            ValueError: no labels, or see `class_weights`.
        """
        if labels is None:
            raise ValueError("reference inputs: expected labels; got none: give batches (x, label)")
        predictions = reference.predictions, deployment.predictions
        found = class_weights(predictions[0], labels, predictions[1], self.n_classes, confidence=self.confidence)
        device = self.weights.device
        self.weights, self.low, self.high = (value.to(device, widest(device)) for value in found[:3])
        self.error = self.weights.new_tensor(found.error)
        self._has_weights = True
        self._forget()
        return self

    def log_weights(self, sample: Unlabelled, labels: Tensor | None = None) -> Tensor:
        """See `Calibration`; the largest log-weight for each input without labels."""
        self._check_adapted()
        weights = self.weights.log()
        if labels is None:
            return weights.max().expand(sample.predictions.shape)
        check_classes("labels", labels, self.n_classes)
        return weights[labels]

    def extra_repr(self) -> str:
        """Weights of the classes, and their worth."""
        return self.describe()

    def describe(self, class_names: Sequence[str] | None = None) -> str:
        """See `Calibration`; numbers stand for missing names."""
        if not self.is_adapted:
            return "no weights yet, promises nothing: adapt(deployment, reference)"
        names = [str(i) for i in range(self.n_classes)] if class_names is None else class_names
        if len(names) != self.n_classes:
            raise ValueError(f"class_names: expected {self.n_classes}, one a class; got {len(names)}")
        spans = zip(names, self.weights.tolist(), self.low.tolist(), self.high.tolist(), strict=True)
        words = ", ".join(f"{name}: {weight:.2g} ({low:.2g} to {high:.2g})" for name, weight, low, high in spans)
        rate = f"the rate may exceed alpha by {float(self.error):.2g}, with confidence {self.confidence:g}"
        same = bool(((self.low <= 1) & (self.high >= 1)).all())
        plain = "; no class surely has another share: try plain calibration first" if same else ""
        return f"weights by class {words}; {rate}{plain}; {self._worth}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not bool((self.weights.isfinite() & (self.weights >= 0)).all()):
            raise ValueError("class weights: expected finite numbers, none below zero; the state is damaged")
        self._has_weights = bool((self.weights > 0).any())


class ClassWeights(NamedTuple):
    """Estimates of w(y) = q(y) / p(y) for C classes.

    Attributes:
        weights: (C,) float64, >= 0, of mean 1 over the reference inputs' classes.
        low, high: (C,), a bootstrap interval of each.
        error: bound of sum_y p(y) |weights(y) - w(y)| / 2, the possible error of a false alarm rate, with the
            confidence of the intervals, by the bootstrap.
    """

    weights: Tensor
    low: Tensor
    high: Tensor
    error: float


def class_weights(
    predictions: Tensor,
    labels: Tensor,
    deployed: Tensor,
    n_classes: int,
    *,
    confidence: float = 0.95,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> ClassWeights:
    """Estimate the weights of classes whose proportions changed, from predictions: black-box shift estimation.

    Solves sum_y P(prediction = i, label = y) w(y) = Q(prediction = i) for w (Lipton, Wang, Smola 2018, "Detecting and
    correcting for label shift with black box predictors", proposition 2); negative weights are set to zero, and the
    mean to 1.

    Args:
        predictions, labels: (n,) int64, of reference inputs.
        deployed: (m,) int64, predictions of deployment inputs.
        n_classes: C.
        confidence: of the intervals, which are quantiles of `n_bootstrap` draws of both samples.

    Raises:
        ValueError: shapes, classes out of range, a class without reference inputs, or a classifier that does not tell
            classes apart.
    """
    check_probability("confidence", confidence)
    for name, value in (("predictions", predictions), ("labels", labels), ("deployment predictions", deployed)):
        if value.dim() != 1 or len(value) == 0 or value.is_floating_point():
            raise ValueError(f"{name}: expected integers (n,), n >= 1; got {tuple(value.shape)} of {value.dtype}")
        check_classes(name, value, n_classes)
    joint = class_counts(predictions.cpu(), labels.cpu(), n_classes, n_classes).double() / len(labels)
    marginal = torch.bincount(deployed.cpu(), minlength=n_classes).double() / len(deployed)
    missing = (joint.sum(0) == 0).nonzero()[:, 0].tolist()
    if missing:
        raise ValueError(f"reference inputs: expected some of every class; got none of {missing}: give more")
    smallest = float(torch.linalg.svdvals(joint)[-1]) * n_classes
    if smallest < _MIN_SINGULAR_VALUE:
        raise ValueError(
            f"classifier: expected predictions that tell the classes apart; got a smallest singular value of "
            f"{smallest:.1g} (1 for a perfect classifier): give more reference inputs, or merge classes"
        )
    weights = _solved(joint, marginal)
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(n_bootstrap):  # one at a time: a joint distribution may be large
        drawn = _drawn(joint.flatten(), len(labels), generator).view_as(joint)
        draws.append(_solved(drawn, _drawn(marginal, len(deployed), generator)))
    found = torch.stack(draws)
    edge = (1 - confidence) / 2
    low, high = found.quantile(edge, dim=0), found.quantile(1 - edge, dim=0)
    error = ((found - weights).abs() * joint.sum(0)).sum(1) / 2
    return ClassWeights(weights, low, high, float(error.quantile(confidence)))


def _solved(joint: Tensor, marginal: Tensor) -> Tensor:
    """(C,) weights from a joint distribution (C, C) and a marginal (C,); at least 0, of mean 1."""
    solved = torch.linalg.lstsq(joint, marginal[:, None], driver="gelsd").solution[:, 0].clamp_min(0)
    mean = solved @ joint.sum(0)
    return solved / mean if mean > 0 else torch.ones_like(solved)


def _drawn(probabilities: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(K,), frequencies in a sample of n draws."""
    drawn = torch.multinomial(probabilities, n, replacement=True, generator=generator)
    return torch.bincount(drawn, minlength=len(probabilities)).double() / n
