"""One row of features per input, from activations of any shape."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
