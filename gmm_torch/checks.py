"""Checks of arguments; each error says what was expected and what arrived."""

from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def is_number(value: Any) -> bool:
    """True for a real number; False for a bool or a tensor."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_probability(name: str, value: float) -> None:
    """Raise ValueError unless 0 < value < 1."""
    if not (is_number(value) and 0 < value < 1):
        raise ValueError(f"{name}: expected a number between 0 and 1, both excluded; got {value!r}")


def check_whole(name: str, value: int) -> None:
    """Raise ValueError unless the value is a whole number: not 2.0, True or "2"."""
    if not (is_number(value) and isinstance(value, Integral)):
        raise ValueError(f"{name}: expected a whole number; got {value!r}")


def check_count(name: str, value: int, at_least: int = 1) -> None:
    """Raise ValueError unless the value is a whole number >= at_least."""
    check_whole(name, value)
    if value < at_least:
        raise ValueError(f"{name}: expected at least {at_least}; got {value}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError unless the value is among the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}; got {value!r}")


def check_tensor(name: str, value: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless the value has that shape and is finite, TypeError where it is no tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor; got {type(value).__name__}: give torch.as_tensor({name})")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}; got {tuple(value.shape)}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: expected finite numbers; got NaN or infinity")


def check_one_each(name: str, each: str, like: Tensor, *values: Tensor, flags: bool = False, do: str = "") -> None:
    """Raise ValueError unless every value is (N,), one for each of `like`, and bool where they are flags."""
    for value in values:
        if value.shape != like.shape or value.dim() != 1 or (flags and value.dtype != torch.bool):
            kind, got = "bool " if flags else "", f"{tuple(value.shape)} of {value.dtype}"
            hint = f": {do}" if do else ""
            raise ValueError(f"{name}: expected one {kind}per {each}, shape {tuple(like.shape)}; got {got}{hint}")


def check_classes(name: str, classes: Tensor, n_classes: int, do: str = "") -> None:
    """Raise ValueError, with what to do, unless classes (N,) lie in [0, n_classes)."""
    if len(classes) and not bool(((classes >= 0) & (classes < n_classes)).all()):
        got = f"{int(classes.min())} to {int(classes.max())}"
        raise ValueError(f"{name}: expected classes 0 to {n_classes - 1}; got {got}{do and f': {do}'}")


def check_p_values(p_values: Tensor) -> None:
    """Raise ValueError unless p-values are (N,), N >= 1, and lie in [0, 1]."""
    if p_values.ndim != 1 or len(p_values) == 0:
        raise ValueError(f"p-values: expected shape (N,), N >= 1; got {tuple(p_values.shape)}")
    bad = int((~((p_values >= 0) & (p_values <= 1))).sum())
    if bad:
        raise ValueError(f"p-values: expected numbers in [0, 1]; {bad} of {len(p_values)} are not (NaN included)")


def check_scores(name: str, scores: Tensor, at_least: int = 1) -> None:
    """Raise ValueError unless scores are (N,), N >= at_least, without NaN."""
    if scores.ndim != 1 or len(scores) < at_least:
        raise ValueError(f"{name}: expected shape (N,), N >= {at_least}; got {tuple(scores.shape)}")
    bad = int(torch.isnan(scores).sum())
    if bad:
        raise ValueError(
            f"{name}: expected numbers; {bad} of {len(scores)} are NaN. Look for the input that the score is "
            "undefined on."
        )


def check_finite_scores(scores: Tensor) -> None:
    """Raise ValueError unless calibration scores are finite."""
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise ValueError(
            f"calibration scores: expected finite numbers; {bad} of {len(scores)} are not: look for such inputs"
        )
