"""Modes that outputs are computed in: evaluation mode and arithmetic precision."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from gmm_torch.devices import autocast_is_on, full_precision
from gmm_torch.features.features import Features


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """`module` in evaluation mode, every submodule's own mode restored afterwards."""
    training = [child for child in module.modules() if child.training]
    for child in training:
        child.training = False
    try:
        yield
    finally:
        for child in training:
            child.training = True


M = TypeVar("M", bound=Callable[..., Any])


def widen(value: Tensor) -> Tensor:
    """At least float32: bfloat16 and float16 hold numbers, but are too coarse to compute with."""
    return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value


def describe(values: Iterable[Tensor], device: torch.device) -> str:
    """Precision in which a classifier computed these values, as words: their types and the type of autocast.

    Examples:
        >>> describe([torch.zeros(1)], torch.device("cpu"))
        'float32'
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     describe([torch.zeros(1), torch.zeros(1).bfloat16()], torch.device("cpu"))
        'bfloat16 and float32 under autocast to bfloat16'
    """
    types = " and ".join(sorted({_name(value.dtype) for value in values}))
    if not autocast_is_on(device):
        return types
    return f"{types} under autocast to {_name(torch.get_autocast_dtype(device.type))}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def precisely(method: M) -> M:
    """A method of outputs that autocast does not reach: it is for the classifier, whose pass is over."""

    @wraps(method)
    def wrapped(self: nn.Module, outputs: Features, /, *args: Any, **kwargs: Any) -> Any:
        with full_precision(outputs.logits.device):
            return method(self, outputs, *args, **kwargs)

    return cast(M, wrapped)


def learning(method: M) -> M:
    """`precisely`, for a method that keeps what it learns: no tensor of inference mode may be among it.

    Such tensors can't take part in a gradient later, and the margin of a detector has one.
    """

    @wraps(method)
    def wrapped(self: nn.Module, outputs: Features, /, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad(), full_precision(outputs.logits.device):
            leave_inference_mode(self)
            return method(self, outputs.map(_out_of_inference_mode), *args, **kwargs)

    return cast(M, wrapped)


def leave_inference_mode(detector: nn.Module, *args: object) -> None:
    """Make what a detector has learned, but not its classifier, take part in gradients; a hook after loading, too."""
    with torch.inference_mode(False):
        for name, part in detector.named_children():
            for module in part.modules() if name != "extractor" else ():
                for key, buffer in module._buffers.items():
                    module._buffers[key] = None if buffer is None else _out_of_inference_mode(buffer)
                for key, parameter in module._parameters.items():
                    if parameter is not None and parameter.is_inference():
                        plain = nn.Parameter(_out_of_inference_mode(parameter.data), parameter.requires_grad)
                        module._parameters[key] = plain


def _out_of_inference_mode(value: Tensor) -> Tensor:
    return value.clone() if value.is_inference() else value


def at_least_float32(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of tensors as `nn.Module._apply` takes it, which leaves the type where it would become narrower."""

    def changed(value: Tensor) -> Tensor:
        found = change(value)
        return value.to(found.device) if widen(found).dtype != found.dtype else found

    return changed
