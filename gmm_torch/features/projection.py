"""Principal directions of features that are too wide for full covariances."""

from typing import Self

import torch
from torch import Tensor, nn

from gmm_torch.mixture.sampling import sample_rows

MAX_WIDTH = 512
ROWS_PER_DIRECTION = 8  # fewer leave a direction to chance, and new inputs far from those that it was learnt from
MAX_ROWS = 20_000  # from which the directions are learnt, drawn at random
N_ITERATIONS = 4  # of the subspace


class Projection(nn.Module):
    """Keeps features of up to `max_width`; wider ones become their principal coordinates and what these leave out.

    The last coordinate is the distance to the principal subspace, so an input that leaves it stays visible. Few points
    determine few directions: there are at most an eighth as many as points to learn from.
    """

    centre: Tensor  # (D,)
    basis: Tensor  # (D, width - 1)
    sized_by_data = ("basis",)

    def __init__(self, width: int, max_width: int = MAX_WIDTH) -> None:
        super().__init__()
        self.is_needed = width > max_width
        self.features = width
        if self.is_needed:
            self.register_buffer("centre", torch.zeros(width))
            self.register_buffer("basis", torch.zeros(width, max_width - 1))

    @property
    def width(self) -> int:
        """Width of the output."""
        return self.basis.shape[1] + 1 if self.is_needed else self.features

    @torch.no_grad()
    def fit(self, points: Tensor) -> Self:
        """Learn the directions from points (N, D)."""
        if not self.is_needed:
            return self
        rows = points[sample_rows(points, MAX_ROWS)]
        self.centre = rows.mean(0)
        rank = max(1, min(self.basis.shape[1], len(rows) // ROWS_PER_DIRECTION))
        self.basis = principal_directions(rows.sub_(self.centre), rank)
        return self

    def forward(self, points: Tensor) -> Tensor:
        """(N, D) to (N, width)."""
        if not self.is_needed:
            return points
        centred = points - self.centre
        inside = centred @ self.basis
        outside = torch.linalg.vector_norm(centred - inside @ self.basis.mT, dim=-1, keepdim=True)
        return torch.cat([inside, outside], dim=-1)


def principal_directions(rows: Tensor, n: int) -> Tensor:
    """Orthonormal directions (D, n) along which centred rows (N, D) vary most, the most first.

    By subspace iteration (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1), as `torch.pca_lowrank`. The random
    vectors that it starts from are drawn on the host: every device has the same, and no generator of it is touched.
    """
    is_wide = len(rows) < rows.shape[1]
    tall = rows.mT if is_wide else rows
    start = torch.randn(tall.shape[1], n, generator=torch.Generator().manual_seed(0), dtype=rows.dtype, device="cpu")
    basis = torch.linalg.qr(tall @ start.to(rows.device)).Q
    for _ in range(N_ITERATIONS):
        basis = torch.linalg.qr(tall @ torch.linalg.qr(tall.mT @ basis).Q).Q
    left, _, right = torch.linalg.svd(basis.mT @ tall, full_matrices=False)
    directions: Tensor = basis @ left if is_wide else right.mT
    return directions.contiguous()
