"""The contract of an initialisation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from gmm_torch.devices import rows_at_once
from gmm_torch.mixture.sampling import NUMBERING_BITS, Cells, numbered, uniform
from gmm_torch.registry import register

__all__ = ["INITIALISATIONS", "Draws", "Initialisation", "assign", "chunks", "squared_distances"]

# Two squared distances tie if they differ by less than this, relative to those from the origin and the centre.
_TIE = 2.0**-17

INITIALISATIONS: dict[str, type["Initialisation"]] = {}  # by name


class Initialisation(ABC):
    """Chooses the initial means; EM's first pass assigns every point to the nearest of them.

    Attributes:
        name: the value of `init_params` that selects it; a class without one is a base class.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        register(INITIALISATIONS, cls)

    @abstractmethod
    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        """Initial means for `n_init` restarts.

        Args:
            x: (m, D), standardised points, m >= 1.
            weight: (m,), positive.
            n_components: K, may exceed the number of distinct points.
            n_init: R.
            generator: on the CPU for every device of x, so that a seed gives the same result everywhere.

        Returns:
            (R, K, D).
        """


def chunks(x: Tensor, numbers_per_point: int) -> Iterator[slice]:
    """Slices of x (m, D) so small that tensors with this many numbers per point fit into a chunk."""
    step = rows_at_once(x.device, numbers_per_point * x.element_size())
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def squared_distances(x: Tensor, centres: Tensor, norm: Tensor | None = None) -> Tensor:
    """Squared distances (..., K, m) of x (m, D), with squared `norm` (m,) if known, to centres (..., K, D)."""
    norm = x.square().sum(-1) if norm is None else norm
    total = centres.square().sum(-1, keepdim=True) + norm
    return total.sub_(centres @ x.mT, alpha=2).clamp_min_(0)


def assign(x: Tensor, centres: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Squared distance (..., m) of each x (m, D) to the nearest centre (..., K, D), and its share (..., m, K) of each.

    The nearest centre gets the point's weight (m,), or one. If several are equally near up to rounding, as is common
    for
    round numbers, they share it: last digits must not decide.
    """
    relative, norm = _relative_distances(x, centres), x.square().sum(-1)
    closest = relative.amin(-1)
    bound = closest + _TIE * (closest + 2 * norm)
    share = relative.le_(bound[..., None])  # in place: memory is the bottleneck
    per_centre = share.sum(-1).reciprocal_() if weight is None else weight / share.sum(-1)
    return (closest + norm).clamp_min_(0), share.mul_(per_centre[..., None])


def _relative_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (..., m, K) of x (m, D) to centres (..., K, D), less the squared norm of x."""
    # Point by point: a minimum over adjacent numbers is several times faster.
    norm = centres.square().sum(-1)[..., None, :]
    if centres.dim() == 2:
        return torch.addmm(norm, x, centres.mT, alpha=-2)
    return torch.baddbmm(norm, x.expand(len(centres), -1, -1), centres.mT, alpha=-2)


class Draws:
    """Random numbers for points that depend on their values, not on their order or last digits.

    A point is drawn by a race (Efraimidis and Spirakis 2006): its arrival time is exponential with its weight as the
    rate, and the first wins. So a point that is added, removed or changes its key matters only if it wins; it would
    shift all positions in a cumulative sum.

    Args:
        x: (m, D), standardised points.
        generator: gives one number, the seed of all draws.
    """

    def __init__(self, x: Tensor, generator: torch.Generator) -> None:
        seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        # Sorting along a line makes the numbering within a cell robust to last digits.
        order = (x @ torch.linspace(1, 2, x.shape[1], dtype=x.dtype, device=x.device)).argsort(stable=True)
        keys = Cells(x.shape[1], seed, x.device, NUMBERING_BITS)(x)
        self.keys = torch.empty_like(keys).index_copy_(0, order, numbered(keys[order]))

    def uniform(self, number: Tensor, rows: slice = slice(None)) -> Tensor:
        """Float32 numbers (..., n) in (0, 1] for draws with these numbers (...) and the points."""
        return uniform(self.keys[rows], number.to(self.keys)[..., None])

    def without_replacement(self, weight: Tensor, n: int, number: Tensor) -> Tensor:
        """Indices (..., n) of points drawn with unnormalised probabilities (..., m) >= 0, for draws of numbers (...).

        If fewer points have a positive weight, some are drawn again; if none has, a single point.
        """
        arrival = self.uniform(number).neg_().log1p_().div_(weight)  # the later, the lower
        last, index = arrival.topk(min(n, weight.shape[-1]), dim=-1)
        n_drawn = torch.isfinite(last).sum(-1, keepdim=True).clamp_min(1)
        return index.gather(-1, torch.arange(n, device=index.device).expand(*index.shape[:-1], n) % n_drawn)
