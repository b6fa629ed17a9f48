"""Means of the parts of a random partition."""

import torch
from torch import Tensor

from gmm_torch.init.base import Initialisation


class Random(Initialisation):
    """Means under random responsibilities, drawn uniformly and normalised per point, as scikit-learn's `random`."""

    name = "random"

    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        """See `Initialisation`."""
        responsibility = torch.rand(n_init, n_components, len(x), generator=generator).to(x)
        responsibility = responsibility / responsibility.sum(1, keepdim=True) * weight
        return (responsibility @ x) / responsibility.sum(-1, keepdim=True)
