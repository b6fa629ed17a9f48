"""Names of places in a classifier, and what a name stands for.

layer4              the output of a module
layer4:input        its input
layer@3             its output when it runs for the third time in a pass; `layer@3:input` likewise
blocks.5[0]         the first token of a sequence, for instance its class token
blocks.5[1:]        the other tokens: pooled without the first; `[-1]` and `[:-1]` are the last and those before
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmm_torch.features.adapter import submodule

INPUT = ":input"
_NAME = re.compile(r"(?P<module>.+?)(@(?P<call>\d+))?(?P<input>:input)?(\[(?P<at>-?\d+|-?\d*:-?\d*)\])?")


class Place(NamedTuple):
    """A place from which features are taken."""

    module: str  # its name
    call: int = 0  # which time it runs, from 1; 0 for the last time
    is_input: bool = False  # whether its input is meant
    at: int | slice | None = None  # tokens, by their order among those that are no padding; None for all positions


def parse(name: str) -> Place:
    """The place that a name stands for."""
    found = _NAME.fullmatch(name)
    if found is None:
        return Place(name)
    ends = [int(end) if end else None for end in found["at"].split(":")] if found["at"] else [None]
    at = slice(*ends) if len(ends) > 1 else ends[0]
    return Place(found["module"], int(found["call"] or 0), found["input"] is not None, at)


def module_at(classifier: nn.Module, name: str) -> nn.Module:
    """The module of a place."""
    return submodule(classifier, parse(name).module)


def one_row_each(value: Any, n: int) -> Tensor | None:
    """The first tensor within what a module takes or gives that has numbers in n rows."""
    return next((found for found in tensors(value) if is_rows(found) and len(found) == n), None)


def is_rows(value: Tensor) -> bool:
    """True if a tensor has floating-point numbers of shape (N, ...)."""
    return value.dim() > 1 and value.is_floating_point()


def tensors(value: Any) -> list[Tensor]:
    """All tensors within tuples, lists, mappings, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [found for each in value for found in tensors(each)]
    return []


def tokens_at(name: str, module: nn.Module, activation: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The positions of an activation (N, ...) that a name stands for; `mask` (N, T) is False where inputs are padded.

    Returns:
        (N, C, ...), and which positions count, (N, P) bool, or None for all of them.
    """
    values, at = channels_first(module, activation), parse(name).at
    is_sequence = values.dim() == 3
    kept = stretched(mask, values.shape[2]) if mask is not None and is_sequence else None
    if at is None:
        return values, kept
    if not is_sequence:
        raise ValueError(
            f"layers: expected a sequence (N, T, C) for {name!r}; got {tuple(activation.shape)}: leave the brackets out"
        )
    length = values.shape[2]
    if kept is None and _holds(length, at):
        return values[:, :, at], None
    kept = values.new_ones(len(values), length, dtype=torch.bool) if kept is None else kept
    order = order_among(kept, from_end=isinstance(at, int) and at < 0)
    if isinstance(at, int):
        wanted = order == (-at - 1 if at < 0 else at)
        return (values * wanted[:, None]).sum(-1), None
    return values, kept & in_slice(order_among(kept), kept.sum(1, keepdim=True), at)


def check_tokens(name: str, module: nn.Module, activation: Tensor) -> None:
    """Raise where a name asks for tokens that a sequence has not got."""
    values, at = channels_first(module, activation), parse(name).at
    if at is not None and values.dim() == 3 and not _holds(values.shape[2], at):
        raise ValueError(f"layers: {name!r} names no token of {values.shape[2]}: name one that there is")


def _holds(length: int, at: int | slice) -> bool:
    return -length <= at < length if isinstance(at, int) else len(range(length)[at]) > 0


def order_among(kept: Tensor, *, from_end: bool = False) -> Tensor:
    """Index of each position (N, P) among the kept ones; -1 for the others."""
    counted = kept.flip(1).cumsum(1).flip(1) if from_end else kept.cumsum(1)
    return torch.where(kept, counted - 1, -1)


def in_slice(order: Tensor, length: Tensor, at: slice) -> Tensor:
    """Mask of the positions in order (N, P) that a slice of sequences of these lengths (N, 1) holds."""

    def end(value: int | None, default: Tensor) -> Tensor:
        if value is None:
            return default
        return length + value if value < 0 else torch.full_like(length, value)

    return (order >= end(at.start, torch.zeros_like(length))) & (order < end(at.stop, length))


def channels_axis(module: nn.Module, activation: Tensor) -> int:
    """The axis of the channels in what a module takes or gives.

    Rows (N, C): 1. Sequences are (N, T, C), unless the module has weights for each of the channels of (N, C, L) alone.
    Maps and volumes are (N, C, H, W), unless it has weights for each of the channels of (N, H, W, C) alone, or, without
    any weights, H = W is there alone. Weights for each channel are parameters of one axis, those of norms and biases;
    those of a convolution tell its channels, which are (N, C, ...), too.
    """
    last = activation.dim() - 1
    if last == 1:
        return 1
    shapes = {parameter.shape for parameter in module.parameters()}
    widths = {shape[0] for shape in shapes if len(shape) == 1}
    convolved = {width for shape in shapes if len(shape) > 2 for width in shape[:2]}
    shape = activation.shape
    is_first, is_last = shape[1] in widths | convolved, shape[last] in widths
    if is_first != is_last:
        return 1 if is_first else last
    if last == 2:
        return 2
    return last if last == 3 and shape[1] == shape[2] != shape[3] else 1


def channels_first(module: nn.Module, activation: Tensor) -> Tensor:
    """(N, C, ...), whichever axis the channels have."""
    return activation.movedim(channels_axis(module, activation), 1)


def positions_last(activation: Tensor) -> Tensor:
    """(N, C, P): maps (N, C, H, W) and sequences (N, C, L) flattened over positions, rows (N, C) with P = 1."""
    return activation[..., None] if activation.dim() == 2 else activation.flatten(2)


STATISTICS = {"mean": ("mean",), "maximum": ("maximum",), "moments": ("mean", "deviation")}


def statistics(pooling: str, activation: Tensor) -> tuple[str, ...]:
    """What the equal parts of a pooled row are, in order; one without a name where there is nothing to pool."""
    return STATISTICS[pooling] if positions_last(activation).shape[-1] > 1 else ("",)


def pool(activation: Tensor, names: Sequence[str], kept: Tensor | None = None) -> Tensor:
    """Statistics over positions, one after another, as one row of features (N, S C) for each input.

    Args:
        activation: (N, C, ...).
        names: among "mean", "maximum" and "deviation" (the standard deviation, that of one position zero); "" is the
            mean of what has one position.
        kept: (N, P) bool, the positions that count; all where None. An input without any has zeros.
    """

    def only(values: Tensor, other: float = 0.0) -> Tensor:
        return values if kept is None else torch.where(kept[:, None], values, other)

    values = positions_last(activation)
    count = values.shape[-1] if kept is None else kept.sum(-1, keepdim=True).clamp_min(1)
    centre = values.mean(-1) if kept is None else only(values).sum(-1) / count
    parts = []
    for name in names:
        if name == "maximum":
            largest = only(values, -torch.inf).amax(-1)
            parts.append(largest if kept is None else torch.where(kept.any(-1, keepdim=True), largest, 0))
        elif name == "deviation":
            centred = only(values - centre[..., None])
            # The norm is one fused pass, ten times as fast as `std` on a CPU, and has gradient zero where a map is
            # constant.
            parts.append(torch.linalg.vector_norm(centred, dim=-1) / count**0.5)
        else:
            parts.append(centre)
    return torch.cat(parts, dim=-1)


def stretched(mask: Tensor, n_positions: int) -> Tensor:
    """A mask (N, T) for P positions that share the T among them, (N, P): frames of a signal have a mask of samples."""
    n = mask.shape[1]
    if n == n_positions:
        return mask
    return mask[:, torch.arange(n_positions, device=mask.device) * n // n_positions]
