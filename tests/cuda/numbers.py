"""A card that is not there, with numbers: tensors that say "cuda:0" and are computed on the host.

Slower than fake tensors, and only as large as the host's memory; but whatever looks at a number finds it, so a whole
life of a detector goes through. What would mix devices raises; `Watch` sees where the host would wait.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from tests.cuda.card import CARD, Watch, device_guard

aten = torch.ops.aten
# What takes tensors of both devices: copies, and indices of the host (for which `Watch` sees the wait).
BETWEEN = {aten._to_copy, aten.copy_, aten.index, aten.index_put, aten.index_put_}


class OnCard(Tensor):
    """A tensor on `CARD`, whose numbers are in `held`, on the host."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCard":
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=CARD
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: expected inside of `card_with_numbers`")

    def tolist(self) -> Any:
        """A copy to the host, as everywhere; torch's own is not for subclasses."""
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnCard({self.held!r})"


class Numbers(TorchDispatchMode):
    """Computes on the host what belongs on `CARD`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        devices = {value.device for value in tensors if value.device == CARD or value.dim()}
        if len(devices) > 1 and func.overloadpacket not in BETWEEN:
            raise RuntimeError(f"{func}: expected all tensors on the same device; got {devices}")
        there = kwargs.get("device")
        on_card = any(isinstance(value, OnCard) for value in tensors) if there is None else there == CARD
        if there is not None and torch.device(there).type == CARD.type:
            kwargs["device"], on_card = torch.device("cpu"), True
        if func.overloadpacket is aten.copy_:
            on_card = isinstance(args[0], OnCard)
        elif func.overloadpacket is aten._local_scalar_dense:
            on_card = False
        wrappers = {}

        def down(value: Any) -> Any:
            if isinstance(value, OnCard):
                wrappers[id(value.held)] = value
                return value.held
            return value

        def up(value: Any) -> Any:
            if not (on_card and isinstance(value, Tensor)):
                return value
            return wrappers[id(value)] if id(value) in wrappers else OnCard(value)

        with _disable_current_modes():
            given = tree_map(down, args)
            found = func(*given, **tree_map(down, kwargs))
            if func is aten._to_copy.default and found is given[0]:
                found = found.clone()
            return tree_map(up, found)


@contextlib.contextmanager
def card_with_numbers() -> Iterator[Watch]:
    """`OnCard` tensors, watched; all is allowed until `begin` says what is."""
    replaces = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a subclass cannot become the data of a parameter
    try:
        with device_guard(), FakeTensorMode(), Numbers(), Watch() as watch:
            yield watch
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaces)
