"""What a detector file says of the detector, checked before anything is built from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from gmm_torch.detection.features.pooling import STATISTICS


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= 2**24


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _are_statistics(value: Any) -> bool:
    known = {"", *(name for names in STATISTICS.values() for name in names)}
    return isinstance(value, dict) and all(
        _are_words(names) and 0 < len(names) <= len(known) and known.issuperset(names) for names in value.values()
    )


def _is_shape(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(_is_whole(side) and side >= 0 for side in value))


def _are_plain(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    parts = [part for each in value.values() for part in (each if isinstance(each, list | tuple) else [each])]
    return all(isinstance(name, str) for name in value) and all(isinstance(part, str | int | float) for part in parts)


def check_preprocessing(value: Any) -> None:
    """Raise ValueError unless a file can hold it: names, and words, numbers or lists of these."""
    if not _are_plain(value):
        raise ValueError(
            f"preprocessing: expected a dict of names, and words, numbers or lists of these; got {value!r}: set "
            "detector.preprocessing to such a one"
        )


def _are_hashes(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(part), str) for part in ("structure", "weights"))


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("options"), dict)


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "layers": lambda value: _are_words(value) and len(value) > 0,
    "found_by": lambda value: isinstance(value, str),
    "statistics": _are_statistics,
    "input_shape": _is_shape,
    "views": _are_words,
    "widths": lambda value: isinstance(value, dict) and all(_is_size(width) for width in value.values()),
    "n_classes": _is_size,
    "score": _is_named,
    "calibration": _is_named,
    "alpha": lambda value: type(value) is float and 0 < value < 1,
    "seed": _is_whole,
    "precision": lambda value: isinstance(value, str),
    "preprocessing": _are_plain,
    "n_fitted": lambda value: _is_whole(value) and value >= 0,
    "n_kept": lambda value: _is_whole(value) and value >= 0,
    "classifier": _are_hashes,
    "versions": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True)
class Description:
    """Of a detector, as JSON can hold it.

    Attributes:
        layers, views, alpha, seed: as `FailureDetector` takes them.
        found_by: the rule that found the layers, in words.
        statistics: layer -> what the equal parts of its features are; see `gmm_torch.detection.features.pooling`.
        input_shape: of an input of the first batch; None where it was no single tensor.
        widths: layer -> D.
        n_classes: C.
        score, calibration: each a registered "name" and the constructor's "options"; never a class or a path to one.
        precision: of the classifier on the calibration inputs; see `gmm_torch.detection.features.precision`.
        preprocessing: of inputs, as `DetectorParts` has it.
        n_fitted: how many inputs the score was fitted to, or to a random sample of which.
        n_kept: how many of them were kept for that.
        classifier: `fingerprint` of the classifier.
        versions: of what wrote the file.
    """

    layers: list[str]
    found_by: str
    statistics: dict[str, list[str]]
    input_shape: list[int] | None
    views: list[str]
    widths: dict[str, int]
    n_classes: int
    score: dict[str, Any]
    calibration: dict[str, Any]
    alpha: float
    seed: int
    precision: str
    preprocessing: dict[str, Any]
    n_fitted: int
    n_kept: int
    classifier: dict[str, str]
    versions: dict[str, str]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The inverse of `dataclasses.asdict`.

        Raises:
            ValueError: entries missing, unexpected, or of another type or range.
        """
        if not isinstance(value, dict) or value.keys() != _CHECKS.keys():
            raise ValueError(f"expected the entries {', '.join(_CHECKS)}")
        bad = [name for name, check in _CHECKS.items() if not check(value[name])]
        if bad or list(dict.fromkeys(value["layers"])) != list(value["widths"]):
            raise ValueError(f"wrong values for {', '.join(bad) or 'widths'}")
        uneven = [name for name, parts in value["statistics"].items() if value["widths"].get(name, 1) % len(parts)]
        if uneven:
            raise ValueError(f"wrong statistics for {', '.join(uneven)}")
        return cls(**value)
