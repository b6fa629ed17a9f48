"""One row of features per input, from activations of any shape."""

from collections.abc import Callable

import torch
from torch import Tensor


def positions_last(activation: Tensor) -> Tensor:
    """(N, C, P): maps (N, C, H, W) flattened over space, sequences (N, T, C) turned round, rows (N, C) with P = 1."""
    if activation.dim() == 2:
        return activation[..., None]
    if activation.dim() == 3:
        return activation.mT
    return activation.flatten(2)


def mean(activation: Tensor) -> Tensor:
    """Average over positions: (N, C)."""
    return positions_last(activation).mean(-1)


def maximum(activation: Tensor) -> Tensor:
    """Largest value over positions: (N, C)."""
    return positions_last(activation).amax(-1)


def moments(activation: Tensor) -> Tensor:
    """Mean and standard deviation over positions, (N, 2 C); the mean alone, (N, C), where there is one position."""
    values = positions_last(activation)
    centre = values.mean(-1)
    if values.shape[-1] == 1:
        return centre
    # The norm is one fused pass, ten times as fast as `std` on a CPU, and has gradient zero where a map is constant.
    deviation = torch.linalg.vector_norm(values - centre[..., None], dim=-1) / values.shape[-1] ** 0.5
    return torch.cat([centre, deviation], dim=-1)


STATISTICS = {"mean": ("mean",), "maximum": ("maximum",), "moments": ("mean", "deviation")}


def statistics(pooling: str, activation: Tensor) -> tuple[str, ...]:
    """What the equal parts of a pooled row are, in order; one without a name where there was nothing to pool."""
    return STATISTICS[pooling] if positions_last(activation).shape[-1] > 1 else ("",)


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean, "maximum": maximum, "moments": moments}
