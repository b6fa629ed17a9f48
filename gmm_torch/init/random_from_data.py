"""Means drawn uniformly from the points."""

import torch
from torch import Tensor

from gmm_torch.init.base import Initialisation


class RandomFromData(Initialisation):
    """Points drawn without replacement where there are enough of them."""

    name = "random_from_data"

    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        """See `Initialisation`."""
        probability = weight.cpu().double()
        if len(x) >= n_components:
            rows = [torch.multinomial(probability, n_components, generator=generator) for _ in range(n_init)]
        else:
            rows = [torch.multinomial(probability, n_components, True, generator=generator) for _ in range(n_init)]
        return x[torch.stack(rows).to(x.device)]
