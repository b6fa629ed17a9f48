"""A random sample of points that depends on what they are and on a seed, never on where they stand."""

import torch
from torch import Tensor

_MIX = (
    -7046029254386353131,
    -4417276706812531889,
    1609587929392839161,
)  # odd 64-bit multipliers (splitmix64, xxhash)
CHUNK = 2**22  # numbers that are hashed at a time


def content_keys(x: Tensor, seed: int) -> Tensor:
    """Pseudo-random keys (n,) int64 that depend on the values of each row of x (n, D) and the seed alone.

    Integer arithmetic wraps and is associative, so a row has the same key whatever batch, order, process, device or
    wider type it comes in. Keeping the rows with the smallest keys is then a uniform sample, whatever the order.
    """
    generator = torch.Generator().manual_seed(seed)
    multipliers = torch.randint(-(2**62), 2**62, (x.shape[1],), generator=generator, device="cpu") * 2 + 1
    # The sum makes -0.0 the same as 0.0.
    bits = (x + x.new_zeros(1, dtype=torch.float64)).view(torch.int64)
    # Round numbers differ in their high bits alone, of which a product would keep few.
    bits ^= bits >> 36
    return _mixed(bits.mul_(multipliers.to(x.device)).sum(1))


def sample_rows(x: Tensor, n: int, seed: int = 0) -> Tensor:
    """Which rows of x (N, D) a random sample of n holds, (min(n, N),) int64, in an order that is random too.

    The rows x[sample_rows(x, n)] are the same, one by one, for every order of the same rows: a set that comes sorted by
    class gives what a shuffled one gives. Equal rows are drawn independently of each other.
    """
    with torch.no_grad():
        step = max(1, CHUNK // max(1, x.shape[1]))
        return shuffle(torch.cat([content_keys(part, seed) for part in x.detach().split(step)]))[:n]


def shuffle(keys: Tensor) -> Tensor:
    """A random order (N,) int64 of rows with these keys (N,) int64; rows of one key are drawn independently."""
    ordered, order = keys.sort(stable=True)
    _, tie, count = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    # equal rows are numbered, so that each has a key of its own
    number = torch.arange(len(keys), device=keys.device) - (count.cumsum(0) - count)[tie]
    return order[_mixed(ordered + number * _MIX[0]).argsort()]


def _mixed(key: Tensor) -> Tensor:
    for multiplier, shift in zip(_MIX, (30, 27, 31), strict=True):
        key = (key ^ ((key >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return key
