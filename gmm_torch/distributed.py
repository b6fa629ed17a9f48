"""Collective operations, which do nothing without a process group of two or more."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """True if there is a default process group with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(tensors: list[Tensor]) -> list[Tensor]:
    """Sums over processes of tensors of one dtype, in one all-reduce."""
    if not is_distributed():
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def sum_of_all(n: int, device: torch.device) -> int:
    """The sum of a number over the processes, which wait for each other; on the device that they talk through."""
    return int(all_reduce_sum([torch.tensor(n, device=device)])[0]) if is_distributed() else n


def gather(x: Tensor) -> Tensor:
    """x of every process, stacked along a new first dimension."""
    if not is_distributed():
        return x[None]
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def share(x: Tensor) -> Tensor:
    """The rows of x (N, ...) that are this process's, where all have the same x."""
    return x[dist.get_rank() :: dist.get_world_size()] if is_distributed() else x


def gather_objects(value: Any) -> list[Any]:
    """A picklable value of every process, in the order of their ranks."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(x: Tensor) -> Tensor:
    """The rows of x (n, ...) of every process, one process after another; n may differ, and be zero."""
    if not is_distributed():
        return x
    sizes = gather(torch.tensor(len(x), device=x.device)).tolist()
    everything = x.new_empty(sum(sizes), *x.shape[1:])
    for rank, rows in enumerate(everything.split(sizes)):
        if rank == dist.get_rank():
            rows.copy_(x)
        if len(rows):
            dist.broadcast(rows, src=rank)
    return everything
