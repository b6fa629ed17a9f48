"""Random samples that depend on the points and a seed, not on the order of the points.

A key is a hash of the cell that a point lies in, so it does not depend on last digits either. The same points up to
rounding (from another batch size, number of threads or precision) give the same sample, except for the few points at
the edge of a cell.
"""

import math

import torch
from torch import Tensor

__all__ = [
    "NUMBERING_BITS",
    "Cells",
    "RowKeys",
    "content_keys",
    "mixed",
    "numbered",
    "row_keys",
    "salted",
    "sample_rows",
    "shuffle",
    "uniform",
]

# Odd 64-bit multipliers (splitmix64, xxhash).
_MIX = (-7046029254386353131, -4417276706812531889, 1609587929392839161)
_CHUNK = 2**22  # numbers hashed at a time
# Number of directions that a cell has edges across. Many directions with wide cells tell points apart as well as few
# with narrow cells, and fewer points lie near an edge; points with few features need narrow cells.
_DIRECTIONS = 8
# Binary digits of a cell's coordinates, relative to the largest: some shared among the features, some per direction.
# Sampling needs a cell for almost every point; numbering the points of a cell allows wider ones.
_SAMPLING_BITS, NUMBERING_BITS = (12, 5), (9, 3)
_SMALL = 2.0**-40  # keeps a sum of many numbers, each up to the largest of float64, finite


def row_keys(x: Tensor, seed: int) -> Tensor:
    """Pseudo-random keys (n, 2) int64 of the rows of x (n, D): of `Cells`, and `content_keys`."""
    return RowKeys(x.shape[1], seed, x.device)(x)


class RowKeys:
    """`row_keys` of points with a fixed number of features; random numbers are drawn once."""

    def __init__(self, n_features: int, seed: int, device: torch.device) -> None:
        self.cells = Cells(n_features, seed, device)
        self.multipliers = _multipliers(n_features, torch.Generator().manual_seed(seed)).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Keys (n, 2) int64 of x (n, D)."""
        wide = x.to(torch.float64, copy=True).add_(0.0)  # turns -0.0 into 0.0
        return torch.stack([self.cells(wide), _content(wide, self.multipliers)], dim=1)


def content_keys(wide: Tensor, seed: int) -> Tensor:
    """Pseudo-random keys (n,) int64 of the values of each row of `wide` (n, D) float64, without negative zeros.

    Integer arithmetic wraps and is associative: a row has the same key in any batch, order, process, device or wider
    type. Rows with the same key are equal.
    """
    return _content(wide, _multipliers(wide.shape[1], torch.Generator().manual_seed(seed)).to(wide.device))


def _content(wide: Tensor, multipliers: Tensor) -> Tensor:
    bits = wide.view(torch.int64)
    # Round numbers differ only in their high bits, and a product would lose most of those.
    return mixed((bits >> 36).bitwise_xor_(bits).mul_(multipliers).sum(1))


class Cells:
    """Pseudo-random keys (n,) int64 of the cells that points x (n, D), D >= 1, lie in.

    The cell of a row is a few random projections, rounded. They are summed in float64, so neither the order of a sum
    nor the last digits of the row matter.
    """

    def __init__(
        self, n_features: int, seed: int, device: torch.device, bits: tuple[int, int] = _SAMPLING_BITS
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (n_features, min(n_features, _DIRECTIONS))
        size = 1 + torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        sign = torch.randint(0, 2, shape, generator=generator, device="cpu") * 2 - 1
        # Random edges: round numbers must not lie on them.
        self.edge = torch.rand(shape[1], generator=generator, dtype=torch.float64, device="cpu").to(device)
        self.multipliers = _multipliers(shape[1] + 1, generator).to(device)
        self.directions = (size * sign * _SMALL).to(device)
        self.digits = bits[1] + math.ceil(bits[0] / n_features)

    def __call__(self, x: Tensor) -> Tensor:
        """Keys (n,) int64 of x (n, D)."""
        projected = x.double() @ self.directions
        # In units of the largest projection, to a factor of two, the scale of the data does not matter.
        exponent = torch.frexp(projected.abs().amax(1)).exponent.long().clamp_min(-900)
        cell = projected.mul_(torch.exp2(self.digits - exponent.double())[:, None]).add_(self.edge).floor_().long()
        return mixed(cell.mul_(self.multipliers[1:]).sum(1) + exponent * self.multipliers[0])


def sample_rows(x: Tensor, n: int, seed: int = 0) -> Tensor:
    """Indices (min(n, N),) int64 of a random sample of n rows of x (N, D), in random order.

    The rows x[sample_rows(x, n)] are the same for every order of the rows of x. Equal rows are drawn independently.
    """
    with torch.no_grad():
        step = max(1, _CHUNK // max(1, x.shape[1]))
        return shuffle(torch.cat([row_keys(part, seed) for part in x.detach().split(step)]))[:n]


def salted(keys: Tensor) -> Tensor:
    """Keys (N, 2) that depend on all rows, so that sets with common rows are shuffled differently."""
    return mixed(keys ^ mixed(keys.sum()))


def shuffle(keys: Tensor) -> Tensor:
    """A random order (N,) int64 of rows with these `row_keys` (N, 2); equal rows are drawn independently."""
    order = keys[:, 1].argsort(stable=True)
    return order[numbered(keys[order, 0]).argsort()]


def numbered(keys: Tensor) -> Tensor:
    """Distinct keys (N,) int64 from keys that rows may share; rows with the same key are numbered in their order."""
    ordered, order = keys.sort(stable=True)
    position = torch.arange(len(keys), device=keys.device)
    is_first = torch.cat([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]])
    number = position - (position * is_first).cummax(0).values
    return torch.empty_like(keys).index_copy_(0, order, mixed(ordered + (number + 1) * _MIX[0]))


def uniform(keys: Tensor, number: Tensor) -> Tensor:
    """Pseudo-random float32 numbers in (0, 1] for int64 keys and numbers of draws, broadcast.

    The keys are random already, so the high bits of a product with another odd number per draw suffice (Dietzfelbinger
    et al. 1997).
    """
    product = keys * (mixed((number + 1) * _MIX[0]) | 1)
    return product.abs_().float().mul_(2.0**-63).clamp_min_(2.0**-63)


def _multipliers(n: int, generator: torch.Generator) -> Tensor:
    """(n,) int64, odd."""
    return torch.randint(-(2**62), 2**62, (n,), generator=generator, device="cpu") * 2 + 1


def mixed(key: Tensor) -> Tensor:
    """Mix the bits of int64 keys of any shape, so that each bit depends on all given bits (splitmix64)."""
    for multiplier, shift in zip(_MIX, (30, 27, 31), strict=True):
        key = (key ^ ((key >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return key
