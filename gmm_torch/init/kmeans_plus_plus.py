"""k-means++: means drawn from the points, each far from those before it."""

import math

import torch
from torch import Tensor

from gmm_torch.init.base import Initialisation, draw, squared_distances


class KMeansPlusPlus(Initialisation):
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): of 2 + log K candidates a step, the one that helps most."""

    name = "k-means++"

    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        """See `Initialisation`."""
        n_candidates = 2 + int(math.log(n_components))
        first = draw(weight.expand(n_init, -1), 1, generator)  # (R, 1)
        chosen = [x[first[:, 0]]]
        norm = x.square().sum(-1)
        closest = squared_distances(x, chosen[0][:, None], norm)[:, 0]  # (R, m)
        for _ in range(1, n_components):
            candidate = draw(closest * weight, n_candidates, generator)  # (R, L)
            distance = torch.minimum(squared_distances(x, x[candidate], norm), closest[:, None])  # (R, L, m)
            best = (distance @ weight).argmin(1)  # (R,)
            restart = torch.arange(n_init, device=x.device)
            closest = distance[restart, best]
            chosen.append(x[candidate[restart, best]])
        return torch.stack(chosen, dim=1)
