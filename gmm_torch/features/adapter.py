"""Adapter to a classifier: its wrappers, its hooks, and the logits in its output."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

COMPILED = "_orig_mod"  # how torch.compile calls the network within


def inner_name(module: nn.Module) -> str | None:
    """Name of the network within a wrapper; None for a module that is no wrapper."""
    if isinstance(module, DataParallel | DistributedDataParallel):
        return "module"
    return COMPILED if COMPILED in module._modules else None


def unwrapped(module: nn.Module) -> nn.Module:
    """The network within `DataParallel`, `DistributedDataParallel` or `torch.compile`, one in another or none."""
    while (name := inner_name(module)) is not None:
        module = module.get_submodule(name)
    return module


def check_network(classifier: object) -> None:
    """Raise TypeError unless a classifier is a module that classifies, and no detector around one."""
    if not isinstance(classifier, nn.Module):
        raise TypeError(
            f"classifier: expected a network, an nn.Module; got {type(classifier).__name__}: make the network, and "
            "load its weights into it"
        )
    if isinstance(getattr(classifier, "classifier", None), nn.Module) and hasattr(classifier, "calibrate"):
        raise TypeError(
            f"classifier: expected a network; got a {type(classifier).__name__} around one: give detector.classifier"
        )


def named_networks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """`named_modules`, with a wrapper's name for the network within it; modules that are there twice come twice."""
    module = unwrapped(module)
    yield prefix, module
    for name, child in module.named_children():
        yield from named_networks(child, f"{prefix}.{name}" if prefix else name)


def submodule(module: nn.Module, name: str) -> nn.Module:
    """The module of a name in `named_networks`; AttributeError where there is none."""
    module = unwrapped(module)
    for part in name.split(".") if name else ():
        module = unwrapped(module.get_submodule(part))
    return module


def unwrapped_names(module: nn.Module) -> dict[str, str]:
    """The names in a state dict -> those that they have without wrappers."""
    found = {}
    for name in module.state_dict():
        holder, parts, kept = module, name.split("."), []
        for i, part in enumerate(parts):
            if part != inner_name(holder):
                kept.append(part)
            child = holder._modules.get(part)
            if child is None:
                kept += parts[i + 1 :]
                break
            holder = child
        found[name] = ".".join(kept)
    return found


def as_written(module: nn.Module) -> AbstractContextManager[object]:
    """A context in which a network runs as it was written: hooks that come later do not reach compiled code.

    Where the caller is compiled itself, its graph has the hooks, and nothing is left to do.
    """
    if torch.compiler.is_compiling() or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    return torch.compiler.set_stance("force_eager") if any(map(_is_compiled, module.modules())) else nullcontext()


def _is_compiled(module: nn.Module) -> bool:
    """True if a module was compiled: wrapped, in place, or its `forward` alone."""
    in_place = module._compiled_call_impl is not None or hasattr(module.forward, "_torchdynamo_orig_callable")
    return in_place or COMPILED in module._modules


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that runs only on the thread that registers it."""
    if torch.compiler.is_compiling():
        return hook
    own = get_ident()

    def heard(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if get_ident() == own else None

    return heard


@dataclass(frozen=True)
class Adapter:
    """From a batch to a classifier's inputs, and from its output to logits.

    Args:
        inputs: from a batch, as a loader gives it or a detector is asked about it, to what the classifier takes: a
            tensor (N, ...), a tuple of them, or a mapping, for keyword arguments. None takes x of x or (x, ...).
        logits: from what the classifier returns to logits (N, C). None takes a tensor, or what is called `logits`.
        labels: from a batch to labels (N,), integers. None takes the second of (x, label), or what is called `labels`.

    Examples:
        >>> adapter = Adapter(inputs=lambda batch: (batch["image"], batch["age"]), logits=lambda output: output[0])
        >>> adapter.inputs({"image": 1, "age": 2})
        (1, 2)
    """

    inputs: Callable[[Any], Any] | None = None
    logits: Callable[[Any], Tensor] | None = None
    labels: Callable[[Any], Tensor] | None = None


NONE = Adapter()


@contextmanager
def understood(classifier: nn.Module, adapter: Adapter) -> Iterator[None]:
    """`classifier`, which within the block gives what the adapter makes of its outputs."""
    if adapter.logits is None:
        yield
        return
    logits = adapter.logits
    handle = classifier.register_forward_hook(of_this_thread(lambda module, args, output: logits(output)))
    try:
        yield
    finally:
        handle.remove()


def logits_of(output: Any) -> Tensor:
    """Logits (N, C): the output itself, or what it calls `logits`, as an entry or an attribute.

    Raises:
        ValueError: no such tensor, or one of fewer than two classes.
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits", output)
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", output)
    if isinstance(logits, Tensor) and (logits.dim() == 1 or (logits.dim() == 2 and logits.shape[1] == 1)):
        raise ValueError(
            f"classifier: expected logits of shape (N, C), C >= 2; got {tuple(logits.shape)}, whose largest is "
            "always class 0: for two classes return torch.stack([torch.zeros_like(z), z], dim=-1), z the logit (N,)"
        )
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not logits.is_floating_point():
        got = f"{tuple(logits.shape)} of {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"classifier: expected logits of shape (N, C), or something that has them as `logits`; got {got}: wrap it "
            "so that it gives them"
        )
    return logits


UNIT = 1e-2  # by which probabilities in half precision may miss a sum of one


@contextmanager
def watched(classifier: nn.Module) -> Iterator[Callable[[Tensor], None]]:
    """While a classifier runs: a check that raises where its output (N, C), N >= 1, holds probabilities.

    They are known by their values, or as what a sigmoid or softmax layer gave.

    Raises, from the check:
        ValueError: the output holds probabilities.
    """
    squashed: list[Tensor] = []

    def note(module: nn.Module, args: object, output: Tensor) -> None:
        if output.dim() == 2:  # maps are large, and no logits
            squashed.append(output)

    hooks = [
        module.register_forward_hook(of_this_thread(note))
        for module in classifier.modules()
        if isinstance(module, nn.Sigmoid | nn.Softmax)
    ]

    def check(output: Tensor) -> None:
        row = output.detach().float()
        is_softmax = len(row) > 0 and bool(((row >= 0).all(-1) & ((row.sum(-1) - 1).abs() < UNIT)).all())
        if is_softmax or any(each is output or torch.equal(each, output) for each in squashed):
            raise ValueError(
                "classifier: expected logits; got probabilities: leave its last softmax out, or give log_softmax. A "
                "network that ends in a sigmoid speaks of several labels, or of one class, and a verdict is about the "
                "one class that is right: give a logit for each"
            )

    try:
        yield check
    finally:
        for hook in hooks:
            hook.remove()
