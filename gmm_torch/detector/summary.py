"""A detector in a few lines of words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gmm_torch.features.extractor import FeatureExtractor

if TYPE_CHECKING:
    from gmm_torch.detector.parts import DetectorParts

BYTES = 4  # of a number, float32


def looked_at(extractor: FeatureExtractor, widths: Mapping[str, int], n_classes: int) -> dict[str, str]:
    """What an extractor looks at, line by line: layers, what found them, what is pooled, how much, and how often."""
    views = extractor.views
    passes = f"{len(views)} for each input ({', '.join(views)})"
    if not extractor.layers:
        return {"layers": f"{extractor.rule}, found at the first batch", "passes": passes}
    kinds: dict[str, list[str]] = {}
    for layer in extractor.layers:
        names = [name for name in extractor.statistics.get(layer, ()) if name]
        kinds.setdefault(" and ".join(names) or "taken as they are", []).append(layer)
    pooled = "; ".join(f"{kind} ({len(layers)})" for kind, layers in kinds.items())
    found = {"layers": ", ".join(extractor.layers), "found by": extractor.found_by, "pooled": pooled}
    if widths:
        width = sum(widths.values())
        n_views = extractor.read()
        size = BYTES * (sum(n_views[layer] * n for layer, n in widths.items()) + len(views) * n_classes)
        each = "" if len(views) == 1 else " in each view"
        found["features"] = f"{width:,} numbers, and {n_classes} logits{each}: {size / 1000:,.1f} kB for each input"
    return found | {"passes": passes}


def summary(detector: "DetectorParts") -> str:
    """A few lines for `print`; the network's modules are those of `print(detector.classifier)`."""
    classifier, score = detector.classifier, detector.score
    parts = ", ".join(f"{name} {share:.2g}" for name, share in score.shares().items())
    drawn = f", of which {detector.n_kept:,} were kept, drawn at random" if detector.n_kept < detector.n_fitted else ""
    n_held_out = detector.held_out_of(detector.n_kept)
    held_out = f"; {n_held_out:,} of them held out of the mixtures, as a reference of the score" if n_held_out else ""
    others = "; the others given, a third at most, are a reference of the score" if detector.score.n_reference else ""
    shape = shape_in_words(detector.extractor.input_shape)
    lines = {
        "classifier": f"{type(classifier).__name__}, {sum(p.numel() for p in classifier.parameters()):,} parameters",
        "score": score.name + (f" of {parts}" if parts else ""),
        **looked_at(detector.extractor, detector.widths, detector.n_classes),
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
    """What to say behind "inputs"; nothing where these are no single tensors.

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
