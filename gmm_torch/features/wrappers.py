"""Wrappers that change how a network runs and not what it computes: a network is the same with and without them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

COMPILED = "_orig_mod"  # how torch.compile calls the network within


def inner_name(module: nn.Module) -> str | None:
    """How a wrapper calls the network within it; None for what is no wrapper."""
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
    """Whether it was compiled: wrapped, in place, or its `forward` alone."""
    in_place = module._compiled_call_impl is not None or hasattr(module.forward, "_torchdynamo_orig_callable")
    return in_place or COMPILED in module._modules
