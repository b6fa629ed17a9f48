"""Points of any accepted kind, as batches on one device."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ROWS",
    "Array",
    "Batches",
    "Points",
    "as_tensor",
    "check_points",
    "check_weight",
    "first_of",
    "readable",
]

# Rows moved to the device at once from an array elsewhere.
ROWS = 2**16
# Sums of weights for which float64 divisions and sums over processes lose no digits.
_TOTAL_WEIGHT = (1e-290, 1e300)

Array = Tensor | np.ndarray
Points = Array | Iterable[Any]


class Batches:
    """Iterates over (x, weight) on `device`, again at each pass.

    Args:
        source: a tensor or array (N, D), for instance a memory map or a table of pandas, or an iterable of batches. A
            batch is x (n, D), or a tuple or list whose first entry is x; other entries (labels, indices) are ignored.
            Arrays may have any byte order and strides; longdouble is rounded to float64.
        n_features: D.
        device: where the batches are wanted.
        sample_weight: (N,) weights >= 0, with a tensor or array only.

    Raises:
        ValueError: wrong rank, width, length or weights.
        TypeError: not floating point, or not points.
    """

    def __init__(
        self,
        source: Points,
        n_features: int,
        device: torch.device,
        sample_weight: Tensor | np.ndarray | None = None,
    ) -> None:
        self.source = source = readable(source)
        self.n_features = n_features
        self.device = device
        self.weight = None
        if isinstance(source, Tensor | np.ndarray):
            check_points(source, n_features)
            if sample_weight is not None:
                self.weight = check_weight(sample_weight, len(source))
        elif not isinstance(source, Iterable):
            raise TypeError(f"x: expected a tensor, an array or an iterable of batches; got {type(source).__name__}")
        elif sample_weight is not None:
            raise ValueError("sample_weight: expected with a tensor or an array only; got an iterable of batches")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        if isinstance(self.source, Tensor | np.ndarray):
            whole = isinstance(self.source, Tensor) and self.source.device == self.device
            step = max(len(self.source), 1) if whole else ROWS
            for start in range(0, len(self.source), step):
                rows = slice(start, start + step)
                yield self._move(self.source[rows]), None if self.weight is None else self._move(self.weight[rows])
            return
        for batch in self.source:
            x = first_of(batch)
            check_points(x, self.n_features)
            yield self._move(x), None

    def _move(self, x: Tensor | np.ndarray) -> Tensor:
        return as_tensor(x).detach().to(self.device)


def first_of(batch: Any) -> Tensor:
    """The points of a batch, without labels or indices after them."""
    result: Tensor = batch[0] if isinstance(batch, tuple | list) else batch
    return result


def readable(x: Any) -> Any:
    """A table of pandas, or anything else with `__array__`, as an array; anything else unchanged."""
    return np.asarray(x) if not isinstance(x, Tensor | np.ndarray) and hasattr(x, "__array__") else x


def as_tensor(x: Array, name: str = "x") -> Tensor:
    """A tensor unchanged, or a copy of an array of any byte order, strides and width.

    Raises:
        ValueError: a masked array that hides values.
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(
            f"{name}: expected an array without masked values: drop them, or see fit(x, missing=True) for NaN instead"
        )
    native = x.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(x, dtype=np.float64 if native == np.longdouble else native, order="C"))


def check_points(x: Any, n_features: int | None) -> None:
    """Raise unless x is dense floating point, of 16 bits or more, of shape (N, n_features); None for any width."""
    if not isinstance(x, Tensor | np.ndarray):
        raise TypeError(f"x: expected a tensor or an array; got {type(x).__name__}: give torch.tensor(x) or an array")
    if isinstance(x, Tensor):
        if x.layout != torch.strided:
            raise TypeError(f"x: expected a dense tensor; got {x.layout}: convert it with .to_dense()")
        floating = x.dtype.is_floating_point and x.dtype.itemsize > 1
    else:
        floating = np.issubdtype(x.dtype, np.floating)
    if not floating:
        conversion = ".float()" if isinstance(x, Tensor) else ".astype('float32')"
        raise TypeError(f"x: expected floating point; got {x.dtype}: convert it, for instance with {conversion}")
    if x.ndim != 2 or n_features not in (None, x.shape[1]):
        width = "D" if n_features is None else n_features
        raise ValueError(f"x: expected shape (N, {width}); got {tuple(x.shape)}")


def check_weight(weight: Tensor | np.ndarray, n: int) -> Tensor:
    """Weights as a float64 tensor (n,); raise unless finite, >= 0, with a sum that float64 can divide by."""
    weight = as_tensor(weight if isinstance(weight, Tensor) else np.ma.asanyarray(weight), "sample_weight").double()
    if weight.shape != (n,):
        raise ValueError(f"sample_weight: expected shape ({n},); got {tuple(weight.shape)}")
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError("sample_weight: expected finite numbers >= 0; got a negative one, NaN or infinity")
    if not bool((weight > 0).any()):
        raise ValueError("sample_weight: expected at least one positive weight; got zeros only")
    low, high = _TOTAL_WEIGHT
    total = float(weight.detach().sum())
    if not low <= total <= high:
        raise ValueError(
            f"sample_weight: expected a sum from {low:g} to {high:g}; got {total:g}: multiply all by a constant, which "
            "changes no result"
        )
    return weight
