"""What a detector's inputs are, in words: their shape, and how they were prepared."""

from collections.abc import Mapping, Sequence
from typing import Any


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
