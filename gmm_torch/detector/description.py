"""What a detector file says of the detector, checked before anything is built from it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gmm_torch.features.input_format import KnownFormat
from gmm_torch.features.pooling import STATISTICS


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= 2**24


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_line(value: Any) -> bool:
    """Whether it can stand in a sentence."""
    return _is_text(value) and len(value) <= 100 and value.isprintable()


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_statistics(value: Any) -> bool:
    known = {"", *(name for names in STATISTICS.values() for name in names)}
    return isinstance(value, dict) and all(
        _are_words(names) and 0 < len(names) <= len(known) and known.issuperset(names) for names in value.values()
    )


def _is_shape(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_count, value)))


def _are_plain(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    parts = [part for each in value.values() for part in (each if isinstance(each, list | tuple) else [each])]
    return all(map(_is_text, value)) and all(isinstance(part, str | int | float) for part in parts)


def check_preprocessing(value: Any) -> None:
    """Raise ValueError unless a file can hold it: names, and words, numbers or lists of these."""
    if not _are_plain(value):
        raise ValueError(
            f"preprocessing: expected a dict of names, and words, numbers or lists of these; got {value!r}: set "
            "detector.preprocessing to such a one"
        )


def _is_format(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != set(KnownFormat._fields):
        return False
    smallest, largest = value["smallest"], value["largest"]
    for each in (smallest, largest):
        if not isinstance(each, list) or not all(type(number) is float and math.isfinite(number) for number in each):
            return False
        if each != sorted(each):
            return False
    below = [low <= high for low, high in zip(smallest, largest, strict=False)]
    known = len(smallest) == len(largest) and len(below) in (0, 2) and all(below)
    return known and _is_line(value["size"]) and _is_line(value["numbers"])


def as_class_names(value: Any) -> tuple[str, ...]:
    """Class names as a detector has them; ValueError unless they are words."""
    names = None if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if names is None or not all(map(_is_text, names)):
        raise ValueError(
            f"class_names: expected a list of words, one a class, or an empty one; got {value!r:.80}: set "
            "detector.class_names to such a list"
        )
    return tuple(map(str, names))


def check_class_names(names: Sequence[str], n_classes: int) -> None:
    """Raise ValueError unless there is one for each class, or none."""
    if len(names) not in (0, n_classes):
        raise ValueError(
            f"class_names: expected {n_classes} words, one a class, or none; got {len(names)}: set "
            "detector.class_names to such a list"
        )


def _are_hashes(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(value.get(part)) for part in ("structure", "weights"))


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("name")) and isinstance(value.get("options"), dict)


ENTRIES: Mapping[str, Callable[[Any], bool]] = {
    "layers": lambda value: _are_words(value) and len(value) > 0,
    "found_by": _is_text,  # the rule that found the layers
    "statistics": _are_statistics,  # layer -> what the equal parts of its features are
    "input_shape": _is_shape,  # of an input of the first batch; None where it was no single tensor
    "views": _are_words,
    "widths": lambda value: isinstance(value, dict) and all(map(_is_size, value.values())),  # layer -> D
    "n_classes": _is_size,
    "score": _is_named,  # a registered name and the constructor's options; never a class or a path to one
    "calibration": _is_named,
    "alpha": lambda value: type(value) is float and 0 < value < 1,
    "seed": _is_whole,
    "precision": _is_text,
    "format": _is_format,  # of the calibration images
    "preprocessing": _are_plain,
    "class_names": _are_words,  # one a class, or none
    "n_fitted": _is_count,
    "n_kept": _is_count,
    "classifier": _are_hashes,  # its `fingerprint`
    "versions": lambda value: isinstance(value, dict),  # of what wrote the file
}


def check_description(value: Any) -> None:
    """Raise ValueError where `ENTRIES` are missing, unexpected, or of another type or range."""
    if not isinstance(value, dict) or value.keys() != ENTRIES.keys():
        raise ValueError(f"expected the entries {', '.join(ENTRIES)}")
    bad = [name for name, check in ENTRIES.items() if not check(value[name])]
    if bad or list(dict.fromkeys(value["layers"])) != list(value["widths"]):
        raise ValueError(f"wrong values for {', '.join(bad) or 'widths'}")
    if len(value["class_names"]) not in (0, value["n_classes"]):
        raise ValueError("wrong values for class_names")
    uneven = [name for name, parts in value["statistics"].items() if value["widths"].get(name, 1) % len(parts)]
    if uneven:
        raise ValueError(f"wrong statistics for {', '.join(uneven)}")
