"""Means of the parts of a random partition."""

import torch
from torch import Tensor

from gmm_torch.mixture.init.base import Draws, Initialisation, chunks

__all__ = ["Random"]

# Numbers per point, restart and component: draws, shares, weighted shares.
_NUMBERS_PER_POINT = 3


class Random(Initialisation):
    """Means under random responsibilities, drawn uniformly and normalised per point, like scikit-learn's `random`."""

    name = "random"

    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        counts, total = x.new_zeros(n_init, n_components), x.new_zeros(n_init, n_components, x.shape[1])
        draws = Draws(x, generator)
        number = torch.arange(n_init * n_components, device=x.device).view(n_init, n_components)
        for rows in chunks(x, _NUMBERS_PER_POINT * n_init * n_components):
            part = x[rows]
            drawn = draws.uniform(number, rows).to(x)  # (R, K, n)
            share = drawn.div_(drawn.sum(1, keepdim=True)).mul_(weight[rows])
            counts += share.sum(-1)
            total += share @ part
        return total / counts[..., None]
