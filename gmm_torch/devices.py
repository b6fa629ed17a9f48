"""Choices by kind of device: sizes of chunks, precision, when to wait. Any torch device works."""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

# Bytes that a chunk may keep alive: enough for the time that operations take to start not to matter, few enough for a
# CPU's caches; a GPU should be kept busy.
CHUNK_BYTES = {"host": 2**24, "accelerator": 2**29}
# Sums in the computing type are moved to float64 after this many points.
SPILL_POINTS = 2**14
# Iterations between two looks at what decides whether they go on: reading a number stalls an accelerator.
CHECK_EVERY = {"host": 1, "accelerator": 5}
# Where a fit reads numbers, and why: an accelerator has nothing to do until the host has seen them.
LOOKS = {
    "data summary": "whether the points can be fitted is known after the first pass, once a fit",
    "assignment": "whether the second pass saw the points of the first, once a fit",
    "sample": "how many points there are to initialise from, once a fit",
    "k-means": "whether the initial means have settled, every few steps",
    "conditioning": "which components need float64, before the first iteration and for the result of a stream",
    "convergence": "whether EM is done, which components need float64, every few iterations",
    "result": "which restart is the best, and what is reported of it, once a fit",
}
# Devices without float64. What needs it is done on the host.
NARROW = ("mps",)


def is_host(device: torch.device) -> bool:
    """True if reading a number does not wait for an accelerator."""
    return device.type == "cpu"


def budget(device: torch.device, *, host: int, accelerator: int) -> int:
    """Chunk size for the device: one that fits a processor's caches, or one that keeps an accelerator busy."""
    return host if is_host(device) else accelerator


def rows_at_once(device: torch.device, bytes_per_row: int, at_least: int = 1) -> int:
    """Number of rows of a chunk if each row keeps this many bytes alive."""
    return max(at_least, budget(device, **CHUNK_BYTES) // bytes_per_row)


def look(name: str, *values: Tensor) -> list[list[float]]:
    """The numbers in some tensors, each flattened, in one copy for which the host waits; `LOOKS` has the name."""
    numbers = read(name, torch.cat([value.detach().flatten().double() for value in values]))
    found, start = [], 0
    for value in values:
        found.append(numbers[start : start + value.numel()])
        start += value.numel()
    return found


def read(name: str, numbers: Tensor) -> list[float]:
    """The numbers (n,) float64 that a look of that name asks for: the only place of a fit that waits for the device."""
    assert name in LOOKS
    result: list[float] = numbers.tolist()
    return result


def has_float64(device: torch.device) -> bool:
    """True if the device computes in float64."""
    if device.type == "xpu" and torch.xpu.is_available():
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type not in NARROW


def summing_device(device: torch.device) -> torch.device:
    """Device for the float64 sums of a fit of a mixture on `device`: that one or the host."""
    return device if has_float64(device) else torch.device("cpu")


def widest(device: torch.device) -> torch.dtype:
    """The widest floating type of a device."""
    return torch.float64 if has_float64(device) else torch.float32


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast, if that is on: a mixture in bfloat16 means nothing."""
    # Where autocast is off there is nothing to enter, which keeps exported programs free of such regions.
    return torch.autocast(device.type, enabled=False) if autocast_is_on(device) else contextlib.nullcontext()


def autocast_is_on(device: torch.device) -> bool:
    """True if autocast is on for the device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
