"""A card that is not there: fake tensors on "cuda:0", and a watch over every operation that they meet.

Fake tensors have sizes, types and devices but no numbers, so work of any size is over at once, and what would mix
devices raises. Where the host must know a number, `answers` gives it.
"""

import contextlib
import ctypes
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gmm_torch.devices

CARD = torch.device("cuda:0")
aten = torch.ops.aten
# Operations whose result has a size, or is a number of Python, that only the device knows.
WAITING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.unique_dim_consecutive,
    aten.equal,
    aten.is_nonzero,
    aten.item,
    aten.bincount,
    aten.repeat_interleave,
    aten._linalg_check_errors,
}
COPIES = {aten._to_copy, aten.copy_}
BY_INDEX = {aten.index, aten.index_put, aten.index_put_}
WATCHED = WAITING | COPIES | BY_INDEX
# What waits in the middle of a fit, and why.
ALLOWED = {
    ("gmm_torch/devices.py", "read"): "the looks, which `LOOKS` lists with their reasons",
    ("gmm_torch/mixture/batches.py", "_move"): "points that lie elsewhere come to the device in every pass",
    (
        "gmm_torch/mixture/e_step.py",
        "flagged",
    ): "components that need float64 change: after a look",
}
# What more waits in a whole fit, once each.
ONCE = {
    (
        "gmm_torch/mixture/sampling.py",
        "__init__",
    ): "the keys of points are drawn on the host, as everywhere",
    ("gmm_torch/mixture/covariance/low_rank.py", "fresh"): "directions are drawn on the host, as everywhere",
    ("gmm_torch/mixture/mixture.py", "adopt"): "what is reported of a fit is kept on the host",
}


HELPERS = {str(Path(__file__).with_name(name)) for name in ("card.py", "numbers.py")}


class HostWaitError(AssertionError):
    """The host would wait for the device."""


class Watch(TorchDispatchMode):
    """Raises where the host would wait for a device that is not the CPU, outside of the places that are allowed.

    Attributes:
        allowed: place -> reason; None allows all.
        waits: how often the host waited in each place.
        looks: how often it looked, by name.
        largest: bytes of the largest tensor that was made on the device.
        wide: bytes of the largest float64 tensor that was made there in each place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin(None)

    def begin(self, allowed: Mapping[tuple[str, str], str] | None) -> None:
        """Count from here."""
        self.allowed, self.largest, self.wide = allowed, 0, dict[tuple[str, str], int]()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.looks: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        why = reason_to_wait(func, args, kwargs)
        if why:
            place = caller()
            if self.allowed is not None and place not in self.allowed:
                raise HostWaitError(f"{why} in {':'.join(place)}")
            self.waits[place] += 1
        elif func is aten._local_scalar_dense.default and isinstance(args[0], torch._subclasses.FakeTensor):
            return 1 if not args[0].dtype.is_floating_point else 1.0  # of the host's own: any number will do
        made = func(*args, **kwargs)
        if makes_new(func):
            for value in [made] if isinstance(made, Tensor) else tree_leaves(made):
                if isinstance(value, Tensor) and value.device.type != "cpu":
                    size = value.numel() * value.element_size()
                    self.largest = max(self.largest, size)
                    if value.dtype == torch.float64:
                        place = caller()
                        self.wide[place] = max(self.wide.get(place, 0), size)
        return made


@cache
def makes_new(func: Any) -> bool:
    """Whether an operation returns no view of what it is given."""
    return not any(value.alias_info for value in func._schema.returns)


def reason_to_wait(func: Any, args: Any, kwargs: Any) -> str | None:
    """Why the host would wait for the device in this operation, None where it would not."""
    if func.overloadpacket not in WATCHED:
        return None
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    if func.overloadpacket in COPIES:
        target = kwargs.get("device") or (args[0].device if func.overloadpacket is aten.copy_ else None)
        source = tensors[-1].device
        if target is not None and torch.device(target).type != source.type:
            return f"a copy from {source.type} to {torch.device(target).type}"
        return None
    if all(value.device.type == "cpu" for value in tensors):
        return None
    if func.overloadpacket in WAITING:
        return str(func)
    if func.overloadpacket in BY_INDEX:
        masks = [value for value in tree_leaves(args[1]) if isinstance(value, Tensor)]
        if any(value.dtype in (torch.bool, torch.uint8) for value in masks):
            return f"{func} by a mask"
        if any(value.device.type == "cpu" for value in masks):
            return f"{func} by an index of the host"
    return None


def caller() -> tuple[str, str]:
    """File and function of the innermost frame in the package, or in a test."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/gmm_torch/" in path and "/tests/" not in path:
            return "gmm_torch/" + path.rpartition("/gmm_torch/")[2], frame.f_code.co_name
        if "/tests/" in path and path not in HELPERS:
            return "tests", frame.f_code.co_name
        frame = frame.f_back
    return "", ""


def answers(n: int) -> Callable[[str, Tensor], list[float]]:
    """What the looks of a fit to n distinct points find: it goes on, in float32, until its iterations are used up."""

    def read(name: str, numbers: Tensor) -> list[float]:
        assert name in gmm_torch.devices.LOOKS
        found = [0.0] * numbers.numel()
        if name == "data summary":
            found[:6] = [n, 0, n, n, n, 1.0]
            found[6:] = [1.0] * len(found[6:])
        elif name == "sample":
            found = [min(n, 15_000), 1e9]
        elif name in ("assignment", "convergence"):
            found[0] = n
        return found

    return read


@contextlib.contextmanager
def card(monkeypatch: pytest.MonkeyPatch, n: int) -> Iterator[Watch]:
    """Fake tensors on `CARD`, watched, for work on n points; all is allowed until `begin` says what is."""
    read = answers(n)

    def counted(name: str, numbers: Tensor) -> list[float]:
        watch.looks[name] += 1
        return read(name, numbers)

    with monkeypatch.context() as patch, device_guard(), FakeTensorMode(), Watch() as watch:
        patch.setattr(gmm_torch.devices, "read", counted)
        yield watch


@contextlib.contextmanager
def device_guard() -> Iterator[None]:
    """Lets a torch that was built without CUDA switch between the devices of fake tensors: the switch does nothing."""
    if torch.backends.cuda.is_built():
        yield
        return
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before, guards[1] = guards[1], guards[14]  # CUDA's becomes that of "meta"
    try:
        yield
    finally:
        guards[1] = before
