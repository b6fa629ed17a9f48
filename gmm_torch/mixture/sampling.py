"""A random sample of points that depends on what they are and on a seed, never on where they stand.

Nor does it hang on the last digits of the points: a key is a hash of a cell that a point lies in, so that the same
points up to rounding (from another batch size, another number of threads, another precision) give the same sample,
but for the few that lie at the edge of a cell.
"""

import math

import torch
from torch import Tensor

_MIX = (
    -7046029254386353131,
    -4417276706812531889,
    1609587929392839161,
)  # odd 64-bit multipliers (splitmix64, xxhash)
CHUNK = 2**22  # numbers that are hashed at a time
# Directions that a cell has edges across. Many with wide cells tell points apart as well as few with narrow ones, and
# fewer points lie near an edge; points in few dimensions need narrow ones.
DIRECTIONS = 8
# Binary digits of a cell's coordinates, relative to the largest: some that the features share, and some of each
# direction's own. Sampling needs a cell for almost every point; where the points of a cell are numbered, wider ones do.
SAMPLING_BITS, NUMBERING_BITS = (12, 5), (9, 3)
SMALL = 2.0**-40  # times which a sum of many numbers, each up to the largest of float64, is one


def row_keys(x: Tensor, seed: int) -> Tensor:
    """Pseudo-random keys (n, 2) int64 of the rows of x (n, D): of `Cells`, and `content_keys`."""
    return RowKeys(x.shape[1], seed, x.device)(x)


class RowKeys:
    """`row_keys` of points of one width, with what is drawn for them drawn once and kept on their device."""

    def __init__(self, n_features: int, seed: int, device: torch.device) -> None:
        self.cells = Cells(n_features, seed, device)
        self.multipliers = _multipliers(n_features, torch.Generator().manual_seed(seed)).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """(n, 2) int64, of x (n, D)."""
        wide = x.to(torch.float64, copy=True).add_(0.0)  # the sum makes -0.0 the same as 0.0
        return torch.stack([self.cells(wide), _content(wide, self.multipliers)], dim=1)


def content_keys(wide: Tensor, seed: int) -> Tensor:
    """Pseudo-random keys (n,) int64 of the values of each row of `wide` (n, D) float64, without negative zeros.

    Integer arithmetic wraps and is associative, so a row has the same key whatever batch, order, process, device or
    wider type it comes in, and two rows of one key are equal.
    """
    return _content(wide, _multipliers(wide.shape[1], torch.Generator().manual_seed(seed)).to(wide.device))


def _content(wide: Tensor, multipliers: Tensor) -> Tensor:
    bits = wide.view(torch.int64)
    # Round numbers differ in their high bits alone, of which a product would keep few.
    return mixed((bits >> 36).bitwise_xor_(bits).mul_(multipliers).sum(1))


class Cells:
    """Pseudo-random keys (n,) int64 of the cells that points x (n, D), D >= 1, lie in; what is drawn is drawn once.

    A cell is what rounding leaves of a few random projections of a row. They are summed in float64, so the order of a
    sum matters as little as the last digits of the row.
    """

    def __init__(self, n_features: int, seed: int, device: torch.device, bits: tuple[int, int] = SAMPLING_BITS) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (n_features, min(n_features, DIRECTIONS))
        size = 1 + torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        sign = torch.randint(0, 2, shape, generator=generator, device="cpu") * 2 - 1
        # Round numbers must not lie on the edges: those are anywhere.
        self.edge = torch.rand(shape[1], generator=generator, dtype=torch.float64, device="cpu").to(device)
        self.multipliers = _multipliers(shape[1] + 1, generator).to(device)
        self.directions = (size * sign * SMALL).to(device)
        self.digits = bits[1] + math.ceil(bits[0] / n_features)

    def __call__(self, x: Tensor) -> Tensor:
        """(n,) int64, of x (n, D)."""
        projected = x.double() @ self.directions
        # In units of the largest projection, to a factor of two, every scale of data is the same.
        exponent = torch.frexp(projected.abs().amax(1)).exponent.long().clamp_min(-900)
        cell = projected.mul_(torch.exp2(self.digits - exponent.double())[:, None]).add_(self.edge).floor_().long()
        return mixed(cell.mul_(self.multipliers[1:]).sum(1) + exponent * self.multipliers[0])


def sample_rows(x: Tensor, n: int, seed: int = 0) -> Tensor:
    """Which rows of x (N, D) a random sample of n holds, (min(n, N),) int64, in an order that is random too.

    The rows x[sample_rows(x, n)] are the same, one by one, for every order of the same rows: a set that comes sorted by
    class gives what a shuffled one gives. Equal rows are drawn independently of each other.
    """
    with torch.no_grad():
        step = max(1, CHUNK // max(1, x.shape[1]))
        return shuffle(torch.cat([row_keys(part, seed) for part in x.detach().split(step)]))[:n]


def salted(keys: Tensor) -> Tensor:
    """Keys (N, 2) that depend on all of these: a row that is drawn first in one set need not be so in another."""
    return mixed(keys ^ mixed(keys.sum()))


def shuffle(keys: Tensor) -> Tensor:
    """A random order (N,) int64 of rows with these `row_keys` (N, 2); equal rows are drawn independently."""
    order = keys[:, 1].argsort(stable=True)
    return order[numbered(keys[order, 0]).argsort()]


def numbered(keys: Tensor) -> Tensor:
    """Keys (N,) int64 of rows that may share a cell's: the rows of each are numbered in the order that they come in."""
    ordered, order = keys.sort(stable=True)
    position = torch.arange(len(keys), device=keys.device)
    is_first = torch.cat([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]])
    number = position - (position * is_first).cummax(0).values
    return torch.empty_like(keys).index_copy_(0, order, mixed(ordered + (number + 1) * _MIX[0]))


def uniform(keys: Tensor, number: Tensor) -> Tensor:
    """Pseudo-random numbers in (0, 1], float32, one for each pair of int64 key and number of the draw, broadcast.

    Keys that are as good as random need no more than a product with another odd number for each draw (Dietzfelbinger
    et al. 1997), of which the high bits count.
    """
    product = keys * (mixed((number + 1) * _MIX[0]) | 1)
    return product.abs_().float().mul_(2.0**-63).clamp_min_(2.0**-63)


def _multipliers(n: int, generator: torch.Generator) -> Tensor:
    """(n,) int64, odd."""
    return torch.randint(-(2**62), 2**62, (n,), generator=generator, device="cpu") * 2 + 1


def mixed(key: Tensor) -> Tensor:
    """Keys int64 of any shape, each bit of which depends on all bits of those given (splitmix64)."""
    for multiplier, shift in zip(_MIX, (30, 27, 31), strict=True):
        key = (key ^ ((key >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return key
