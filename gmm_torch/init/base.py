"""The contract of an initialisation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from gmm_torch.devices import rows_at_once


class Initialisation(ABC):
    """Chooses the initial means; EM's first pass assigns every point to the nearest of them.

    Attributes:
        name: the value of `init_params` that selects it.
    """

    name: ClassVar[str]

    @abstractmethod
    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        """Initial means for `n_init` restarts.

        Args:
            x: (m, D), standardised points, m >= 1.
            weight: (m,), positive.
            n_components: K, may exceed the number of distinct points.
            n_init: R.
            generator: on the CPU, whatever the device of x, so that a seed means the same everywhere.

        Returns:
            (R, K, D).
        """


def chunks(x: Tensor, numbers_per_point: int) -> Iterator[slice]:
    """Slices of x (m, D) for which tensors with this many numbers a point stay within a chunk's bytes."""
    step = rows_at_once(x.device, numbers_per_point * x.element_size())
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def squared_distances(x: Tensor, centres: Tensor, norm: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances (..., K, m) of standardised x (m, D) to centres (..., K, D), one matrix product.

    Args:
        x: (m, D).
        centres: (..., K, D).
        norm: (m,), the squared norms of x, for who has them.
    """
    norm = x.square().sum(-1) if norm is None else norm
    return torch.sub(centres.square().sum(-1, keepdim=True) + norm, centres @ x.mT, alpha=2).clamp_min_(0)


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance (..., m) of each x (m, D) to the nearest of the centres (..., K, D), and which that is."""
    closest, label = relative_distances(x, centres).min(-1)
    return (closest + x.square().sum(-1)).clamp_min_(0), label


def relative_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (..., m, K) of x (m, D) to centres (..., K, D), less the squared norm of x."""
    # Point by point: a minimum over numbers that lie side by side is several times faster.
    return torch.sub(centres.square().sum(-1)[..., None, :], x @ centres.mT, alpha=2)


def draw(probability: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n indices for each row of unnormalised `probability` (..., m), with replacement: (..., n).

    A row that sums to zero is drawn from uniformly.
    """
    cumulative = probability.double().cumsum(-1)
    total = cumulative[..., -1:]
    uniform = torch.arange(1, probability.shape[-1] + 1, dtype=torch.float64, device=probability.device)
    cumulative = torch.where(total > 0, cumulative, uniform.expand_as(cumulative))
    u = torch.rand(*probability.shape[:-1], n, generator=generator, dtype=torch.float64, device="cpu")
    target = u.to(probability.device) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp_max(probability.shape[-1] - 1)
