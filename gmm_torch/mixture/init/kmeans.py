"""k-means from k-means++."""

import torch
from torch import Tensor

from gmm_torch.devices import CHECK_EVERY, budget, look
from gmm_torch.mixture.init.base import Initialisation, assign, chunks
from gmm_torch.mixture.init.kmeans_plus_plus import KMeansPlusPlus

__all__ = ["MAX_ITER", "KMeans", "lloyd_step"]

MAX_ITER = 25
# Numbers per point, restart and component. A step keeps fewer, but smaller chunks stay in the cache.
_NUMBERS_PER_POINT = 6


def lloyd_step(x: Tensor, weight: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """One iteration of Lloyd's algorithm on x (m, D) with positive weights (m,) from centres (R, K, D).

    An empty cluster moves to the point furthest from its centre. Returns the new centres, and the weighted squared
    distance (R,) of the points to the old ones.
    """
    n_init, n_components = centres.shape[:2]
    counts, total, distances = centres.new_zeros(n_init, n_components), torch.zeros_like(centres), []
    for rows in chunks(x, _NUMBERS_PER_POINT * n_init * n_components):
        part = x[rows]
        # Unlike a scatter, a product with the shares is deterministic on a GPU.
        distance, membership = assign(part, centres, weight[rows])  # (R, n), (R, n, K)
        counts += membership.sum(-2)
        total += membership.mT @ part
        distances.append(distance)
    closest = torch.cat(distances, dim=1)  # (R, m)
    updated = total / counts.clamp_min(torch.finfo(counts.dtype).tiny)[..., None]
    empty = counts == 0
    # The j-th empty cluster takes the j-th furthest point.
    furthest = closest.topk(min(n_components, x.shape[0]), dim=1).indices
    rank = (empty.cumsum(1) - 1).clamp(0, furthest.shape[1] - 1)
    updated = torch.where(empty[..., None], x[furthest.gather(1, rank)], updated)
    return updated, closest @ weight


class KMeans(Initialisation):
    """k-means++, then Lloyd's iterations until the inertia settles."""

    name = "kmeans"

    def means(self, x: Tensor, weight: Tensor, n_components: int, n_init: int, generator: torch.Generator) -> Tensor:
        centres = KMeansPlusPlus().means(x, weight, n_components, n_init, generator)
        previous = torch.full((n_init,), torch.inf, dtype=x.dtype, device=x.device)
        every, settled = budget(x.device, **CHECK_EVERY), torch.zeros((), dtype=torch.bool, device=x.device)
        for step in range(1, MAX_ITER + 1):
            updated, inertia = lloyd_step(x, weight, centres)
            # Once settled, later steps change nothing, so rare looks suffice.
            centres = torch.where(settled, centres, updated)
            settled |= (inertia >= previous * (1 - 1e-4)).all()
            if step % every == 0 and step < MAX_ITER and look("k-means", settled)[0][0]:
                break
            previous = inertia
        return centres
