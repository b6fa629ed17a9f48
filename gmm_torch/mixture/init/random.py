"""Means of the parts of a random partition."""

import torch
from torch import Tensor

from gmm_torch.mixture.init.base import Draws, Initialisation, chunks

# Numbers that are kept for a point, restart and component: what is drawn, shares, and these times weights.
NUMBERS_PER_POINT = 3


class Random(Initialisation):
    """Means under random responsibilities, drawn uniformly and normalised per point, as scikit-learn's `random`."""

    name = "random"

    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        """See `Initialisation`."""
        counts, total = x.new_zeros(n_init, n_components), x.new_zeros(n_init, n_components, x.shape[1])
        draws = Draws(x, generator)
        number = torch.arange(n_init * n_components, device=x.device).view(n_init, n_components)
        for rows in chunks(x, NUMBERS_PER_POINT * n_init * n_components):
            part = x[rows]
            drawn = draws.uniform(number, rows).to(x)  # (R, K, n)
            share = drawn.div_(drawn.sum(1, keepdim=True)).mul_(weight[rows])
            counts += share.sum(-1)
            total += share @ part
        return total / counts[..., None]
