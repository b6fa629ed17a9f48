"""k-means++: means drawn from the points, each far from the earlier ones."""

import math

import torch
from torch import Tensor

from gmm_torch.mixture.init.base import Draws, Initialisation, chunks, squared_distances

__all__ = ["KMeansPlusPlus"]

# Numbers per point, restart and candidate: products, distances, minima.
_NUMBERS_PER_POINT = 3


class KMeansPlusPlus(Initialisation):
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): the best of 2 + log K candidates per step."""

    name = "k-means++"

    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        n_candidates = 2 + int(math.log(n_components))
        draws, restart = Draws(x, generator), torch.arange(n_init, device=x.device)
        first = draws.without_replacement(weight.expand(n_init, -1), 1, restart)  # (R, 1)
        chosen = [x[first[:, 0]]]
        norm = x.square().sum(-1)
        closest = squared_distances(x, chosen[0][:, None], norm)[:, 0]  # (R, m)
        for step in range(1, n_components):
            number = step * n_init + restart
            candidate = draws.without_replacement(closest * weight, n_candidates, number)  # (R, L)
            potential, centres = closest.new_zeros(n_init, n_candidates), x[candidate]
            for rows in chunks(x, _NUMBERS_PER_POINT * n_init * n_candidates):
                distance = squared_distances(x[rows], centres, norm[rows])  # (R, L, n)
                smaller = torch.minimum(distance, closest[:, None, rows], out=distance)
                potential += smaller @ weight[rows]
            place = potential.argmin(1)  # (R,)
            best = candidate[restart, place]
            if smaller.shape[-1] == len(x):
                closest = smaller[restart, place]
            else:  # keeping those of all chunks and candidates would take too much memory
                closest = torch.minimum(closest, squared_distances(x, x[best][:, None], norm)[:, 0])
            chosen.append(x[best])
        return torch.stack(chosen, dim=1)
