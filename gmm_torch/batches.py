"""Whatever a fit may be given, as batches of points on one device."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Rows that are brought to the device at once from arrays that live elsewhere.
ROWS = 2**16
# Sums of weights that float64 divides by, and sums over processes, without losing digits.
TOTAL_WEIGHT = (1e-290, 1e300)

Points = Tensor | np.ndarray | Iterable[Any]


class Batches:
    """Iterates over (x, weight) on `device`, again at each pass.

    Args:
        source: a tensor or array (N, D), a memory map included, or an iterable of batches, each x (n, D) or a tuple
            or list whose first entry is x; anything after it (labels, indices) is ignored.
        n_features: D.
        device: where the batches are wanted.
        sample_weight: (N,) weights >= 0, with a tensor or array only.

    Raises:
        ValueError: wrong rank, width, length or weights; an iterator that can be read only once.
        TypeError: not floating point, or nothing that holds points.
    """

    def __init__(
        self,
        source: Points,
        n_features: int,
        device: torch.device,
        sample_weight: Tensor | np.ndarray | None = None,
    ) -> None:
        self.source = source
        self.n_features = n_features
        self.device = device
        self.weight = None
        if isinstance(source, Tensor | np.ndarray):
            check_points(source, n_features)
            if sample_weight is not None:
                self.weight = check_weight(sample_weight, len(source))
        elif isinstance(source, Iterator):
            raise ValueError(
                "expected data that can be read again at every pass (a tensor, an array or a DataLoader); got an "
                f"iterator of type {type(source).__name__}: pass what it was made from"
            )
        elif not isinstance(source, Iterable):
            raise TypeError(f"expected a tensor, an array or an iterable of batches; got {type(source).__name__}")
        elif sample_weight is not None:
            raise ValueError("sample_weight: expected with a tensor or an array only; got an iterable of batches")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        if isinstance(self.source, Tensor | np.ndarray):
            whole = isinstance(self.source, Tensor) and self.source.device == self.device
            step = max(len(self.source), 1) if whole else ROWS
            for start in range(0, len(self.source), step):
                rows = slice(start, start + step)
                yield (
                    self._move(self.source[rows]),
                    None if self.weight is None else self._move(self.weight[rows]),
                )
            return
        for batch in self.source:
            x = first_of(batch)
            check_points(x, self.n_features)
            yield self._move(x), None

    def _move(self, x: Tensor | np.ndarray) -> Tensor:
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(np.array(x))  # a copy: a memory map is read-only, and only a chunk of it fits
        return x.detach().to(self.device)


def first_of(batch: Any) -> Tensor:
    """The points of a batch that may carry labels or indices after them."""
    result: Tensor = batch[0] if isinstance(batch, tuple | list) else batch
    return result


def check_points(x: Any, n_features: int, name: str = "x") -> None:
    """Raise unless x is floating point of shape (N, n_features)."""
    if not isinstance(x, Tensor | np.ndarray):
        raise TypeError(f"{name}: expected a tensor or an array; got {type(x).__name__}")
    floating = x.dtype.is_floating_point if isinstance(x, Tensor) else np.issubdtype(x.dtype, np.floating)
    if not floating:
        raise TypeError(f"{name}: expected floating point; got {x.dtype}: convert it, for instance with .float()")
    if x.ndim != 2 or x.shape[1] != n_features:
        raise ValueError(f"{name}: expected shape (N, {n_features}); got {tuple(x.shape)}")


def check_weight(weight: Tensor | np.ndarray, n: int) -> Tensor:
    """Weights as a float64 tensor; raise unless there are n, finite, >= 0, and of a sum within `TOTAL_WEIGHT`."""
    weight = torch.as_tensor(weight).double()
    if weight.shape != (n,):
        raise ValueError(f"sample_weight: expected shape ({n},); got {tuple(weight.shape)}")
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError("sample_weight: expected finite numbers >= 0; got a negative one, NaN or infinity")
    if not bool((weight > 0).any()):
        raise ValueError("sample_weight: expected at least one positive weight; got zeros only")
    low, high = TOTAL_WEIGHT
    total = float(weight.sum())
    if not low <= total <= high:
        raise ValueError(
            f"sample_weight: expected a sum from {low:g} to {high:g}; got {total:g}: multiply all by a constant, which "
            "changes no result"
        )
    return weight
