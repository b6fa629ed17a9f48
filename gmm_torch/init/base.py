"""The contract of an initialisation."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


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


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances (..., K, m) of standardised x (m, D) to centres (..., K, D), one matrix product."""
    products = centres @ x.mT
    return (centres.square().sum(-1, keepdim=True) - 2 * products + x.square().sum(-1)).clamp_min(0)


def draw(probability: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n indices for each row of unnormalised `probability` (..., m), with replacement: (..., n).

    A row that sums to zero is drawn from uniformly.
    """
    cumulative = probability.double().cumsum(-1)
    total = cumulative[..., -1:]
    uniform = torch.arange(1, probability.shape[-1] + 1, dtype=torch.float64, device=probability.device)
    cumulative = torch.where(total > 0, cumulative, uniform.expand_as(cumulative))
    u = torch.rand(*probability.shape[:-1], n, generator=generator, dtype=torch.float64)
    target = u.to(probability.device) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp_max(probability.shape[-1] - 1)
