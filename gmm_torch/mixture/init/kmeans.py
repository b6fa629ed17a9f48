"""k-means from k-means++."""

import torch
from torch import Tensor

from gmm_torch.devices import CHECK_EVERY, budget, look
from gmm_torch.mixture.init.base import Initialisation, assign, chunks
from gmm_torch.mixture.init.kmeans_plus_plus import KMeansPlusPlus

MAX_ITER = 25
# Numbers that a step counts for a point, restart and component. It keeps fewer, and passes over them time and again: in
# chunks of half the size they stay in the cache.
NUMBERS_PER_POINT = 6


def lloyd_step(x: Tensor, weight: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """One iteration of Lloyd's algorithm on x (m, D) with positive weights (m,) from centres (R, K, D).

    An empty cluster moves to the point that lies furthest from its centre. Gives the new centres, and the weighted
    squared distance of the points to the old ones (R,).
    """
    n_init, n_components = centres.shape[:2]
    counts, total, distances = centres.new_zeros(n_init, n_components), torch.zeros_like(centres), []
    for rows in chunks(x, NUMBERS_PER_POINT * n_init * n_components):
        part = x[rows]
        # A product with the shares, unlike a scatter, adds in the same order every time on a GPU.
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
        """See `Initialisation`."""
        centres = KMeansPlusPlus().means(x, weight, n_components, n_init, generator)
        previous = torch.full((n_init,), torch.inf, dtype=x.dtype, device=x.device)
        every, settled = budget(x.device, **CHECK_EVERY), torch.zeros((), dtype=torch.bool, device=x.device)
        for step in range(1, MAX_ITER + 1):
            updated, inertia = lloyd_step(x, weight, centres)
            # Steps after the last that was wanted change nothing, so it does not matter when they are noticed.
            centres = torch.where(settled, centres, updated)
            settled |= (inertia >= previous * (1 - 1e-4)).all()
            if step % every == 0 and step < MAX_ITER and look("k-means", settled)[0][0]:
                break
            previous = inertia
        return centres
