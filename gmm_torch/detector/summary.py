"""A detector in a few lines of words, and what makes it weak."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gmm_torch.features.layers import PENULTIMATE
from gmm_torch.scores.feature_mixture import concentration

if TYPE_CHECKING:
    from gmm_torch.detector.detector import FailureDetector

BYTES = 4  # of a number, float32
PAGE = "docs/weak.md"
MAX_EXCESS = 1.5  # times alpha: a calibration set is small where the realised rate may be higher
NUMBERS = 2  # of the fitting inputs' features for each parameter of a mixture; fewer leave full covariances singular
LOW_ACCURACY = 0.7


def looked_at(detector: "FailureDetector") -> dict[str, str]:
    """Layers, the rule that found them, how they are pooled, their size, and the passes an input takes, as text."""
    extractor, views = detector.extractor, detector.extractor.views
    passes = f"{len(views)} for each input ({', '.join(views)})"
    if not extractor.layers:
        return {"layers": f"{extractor.rule}, found at the first batch", "passes": passes}
    kinds: dict[str, list[str]] = {}
    for layer in extractor.layers:
        names = [name for name in extractor.statistics.get(layer, ()) if name]
        kinds.setdefault(" and ".join(names) or "taken as they are", []).append(layer)
    pooled = "; ".join(f"{kind} ({len(layers)})" for kind, layers in kinds.items())
    found = {"layers": ", ".join(extractor.layers), "found by": extractor.found_by, "pooled": pooled}
    if detector.plan is not None:
        widths, n_classes, n_views = detector.plan.widths, detector.plan.n_classes, extractor.read()
        size = BYTES * (sum(n_views[layer] * n for layer, n in widths.items()) + len(views) * n_classes)
        each = "" if len(views) == 1 else " in each view"
        numbers = f"{sum(widths.values()):,} numbers, and {n_classes} logits{each}"
        found["features"] = f"{numbers}: {size / 1000:,.1f} kB for each input"
    return found | {"passes": passes}


def summary(detector: "FailureDetector") -> str:
    """A few lines for `print`; the network's modules are those of `print(detector.classifier)`."""
    classifier, score = detector.classifier, detector.score
    parts = ", ".join(f"{name} {share:.2g}" for name, share in score.shares().items())
    drawn = f", {detector.n_kept:,} of them kept, drawn at random" if detector.n_kept < detector.n_fitted else ""
    n_held_out = detector.held_out_of(detector.n_kept)
    held_out = f"; {n_held_out:,} of them held out of the mixtures, as a reference of the score" if n_held_out else ""
    others = "; the others given, a third at most, are a reference of the score" if detector.score.n_reference else ""
    shape = shape_in_words(detector.extractor.input_shape)
    lines = {
        "classifier": f"{type(classifier).__name__}, {sum(p.numel() for p in classifier.parameters()):,} parameters",
        "score": score.name + (f" of {parts}" if parts else ""),
        **looked_at(detector),
        "fitted": f"to {detector.n_fitted:,} inputs{shape}{drawn}{held_out}" if detector.n_fitted else "not yet",
        "calibrated": f"on {n:,} inputs{others}" if (n := len(detector.calibration)) else "not yet",
        "alpha": f"{detector.alpha:g}",
    }
    if n and (rate := detector.calibration.realised_rate(detector.alpha)):
        lines["alpha"] += f", in 95 of 100 calibration sets {rate[0]:.1%} to {rate[1]:.1%} of good inputs refused"
    if detector.preprocessing:
        lines["prepared"] = preprocessing_in_words(detector.preprocessing)
    if promised := detector.calibration.extra_repr():
        lines[detector.calibration.name] = promised
    return "\n".join([f"{type(detector).__name__}(", *(f"  {name}: {line}" for name, line in lines.items()), ")"])


def shape_in_words(shape: Sequence[int] | None) -> str:
    """The words behind "inputs"; none where these are no single tensors.

    Example:
        >>> shape_in_words((1, 8, 8))
        ' of shape (1, 8, 8)'
    """
    return "" if shape is None else f" of shape ({', '.join(map(str, shape))})"


def preprocessing_in_words(preprocessing: Mapping[str, Any]) -> str:
    """Names and values, without the digits that float32 puts behind a number.

    Example:
        >>> preprocessing_in_words({"mean": [0.05000000074505806], "interpolation": "bicubic"})
        'mean [0.05], interpolation bicubic'
    """
    return ", ".join(f"{name} {_short(value)}" for name, value in preprocessing.items())


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class Finding(NamedTuple):
    """One thing that may make a detector weak.

    Attributes:
        section: of `PAGE`, as its anchor.
        text: a sentence without its stop.
    """

    section: str
    text: str

    def __str__(self) -> str:
        return f"{self.text}: see {PAGE}#{self.section}"


def diagnose(detector: "FailureDetector") -> list[Finding]:
    """Weaknesses that a fitted and calibrated detector finds in itself without failures; none where all is well.

    The accuracy is that on the labelled inputs of `component_report`, and unknown without them.
    """
    return [*_calibration(detector), *_layers(detector), *_mixtures(detector), *_accuracy(detector)]


def _calibration(detector: "FailureDetector") -> Iterator[Finding]:
    rate, n = detector.calibration.realised_rate(detector.alpha), len(detector.calibration)
    if rate is not None and rate[1] > MAX_EXCESS * detector.alpha:
        refused = f"{rate[0]:.1%} to {rate[1]:.1%} of good inputs are refused at alpha = {detector.alpha:g}"
        yield Finding("few-calibration-images", f"with {n:,} calibration inputs, {refused}, in 95 of 100 such sets")


def _layers(detector: "FailureDetector") -> Iterator[Finding]:
    found, rule = detector.extractor.layers, detector.extractor.found_by
    if detector.score.layers != PENULTIMATE and rule != "named" and len(found) == 1:
        text = f"one layer was found to look at, {found[0]} ({rule}), where the score is meant for several"
        yield Finding("odd-layers", text)


def _mixtures(detector: "FailureDetector") -> Iterator[Finding]:
    for (name, model), kept in zip(detector.score.models().items(), detector.examples.kept, strict=True):
        held_out = bool(kept.labelled.any())
        counts = (kept.labelled if held_out else kept.predicted).sum(1)
        k, d = model.mixture.n_components, model.mixture.n_features
        kind = "calibration" if held_out else "fitting"
        if used := concentration(counts):
            many = f"{used.largest:.0%} of {int(counts.sum()):,} {kind} inputs"
            text = f"{name}: {many} are in one of {k} components, which count as {used.n_used:.1f}"
            yield Finding("all-in-one-component", text)
        n = int(kept.predicted.sum())
        needed = -(-NUMBERS * model.mixture.n_parameters() // d)
        if n < needed:
            text = f"{name}: {n:,} fitting inputs for {k} components of {d:,} features, which need {needed:,}"
            yield Finding("too-few-images-to-fit", text)


def _accuracy(detector: "FailureDetector") -> Iterator[Finding]:
    for kept in detector.examples.kept[:1]:  # each has seen the same inputs
        n, wrong = int(kept.labelled.sum()), int(kept.wrong.sum())
        if n and 1 - wrong / n < LOW_ACCURACY:
            text = f"the classifier is right on {1 - wrong / n:.0%} of {n:,} labelled calibration inputs"
            yield Finding("low-accuracy", text)
