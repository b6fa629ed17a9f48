"""Means drawn uniformly from the points."""

import torch
from torch import Tensor

from gmm_torch.mixture.init.base import Draws, Initialisation

__all__ = ["RandomFromData"]


class RandomFromData(Initialisation):
    """Points drawn without replacement, if there are enough."""

    name = "random_from_data"

    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        restart = torch.arange(n_init, device=x.device)
        draws = Draws(x, generator)
        return x[draws.without_replacement(weight.expand(n_init, -1), n_components, restart)]
