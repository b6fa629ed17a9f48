"""Which arguments a network takes from the data, whatever it calls them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

from torch import nn

NUM_CLASSES = ("num_classes", "num_labels", "n_classes")
IN_CHANNELS = ("in_channels", "in_chans", "num_channels")
IMAGE_SIZE = ("image_size", "img_size")
ALL_NAMES = (*NUM_CLASSES, *IN_CHANNELS, *IMAGE_SIZE)


def from_data(n_classes: int, n_channels: int, height: int, width: int) -> dict[str, Any]:
    """Values by every name that networks have for them; the size of a square image is one number."""
    size = height if height == width else [height, width]
    values = ((NUM_CLASSES, n_classes), (IN_CHANNELS, n_channels), (IMAGE_SIZE, size))
    return {name: value for names, value in values for name in names}


def taken(target: Callable[..., Any]) -> set[str]:
    """Names of the arguments that a class or function is known to take.

    Where it takes any (`**kwargs`), those of the class that it returns, or of the classes that it is derived from,
    count as well.
    """
    return {name for signature in _signatures(target) for name in signature.parameters}


def takes_any(target: Callable[..., Any]) -> bool:
    """Whether it takes arguments of any name, or does not say which it takes."""
    signature = _signature(target)
    return signature is None or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


def _signatures(target: Callable[..., Any]) -> Iterator[inspect.Signature]:
    signature = _signature(target)
    if signature is None:
        return
    yield signature
    if not takes_any(target):
        return
    if inspect.isclass(target):
        after = next((each for each in target.__mro__[1:] if "__init__" in vars(each)), object)
    else:
        after = _returned(target)
    if inspect.isclass(after) and issubclass(after, nn.Module) and after is not nn.Module:
        yield from _signatures(after)


def _signature(target: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _returned(target: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(target).get("return")
    except (NameError, TypeError, AttributeError):  # hints are names that nothing has to define
        return None


def filled(arguments: Mapping[str, Any], target: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that a target takes and `arguments` do not set.

    Args:
        arguments: what a configuration sets; null asks for the value from the data, where the target takes any.
        target: a class or function.
        values: see `from_data`.
    """
    names, any_name = taken(target), takes_any(target)
    empty = {name for name in values if name in arguments and arguments[name] is None}
    unset = {name for name in names & values.keys() if name not in arguments}
    return {name: values[name] for name in unset | {name for name in empty if name in names or any_name}}
