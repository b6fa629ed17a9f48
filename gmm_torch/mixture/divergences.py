"""Distances between normal distributions."""

import torch
from torch import Tensor

from gmm_torch.mixture.linear_algebra import log_det_of_factor, robust_cholesky


def bhattacharyya(means: Tensor, covariances: Tensor, other_means: Tensor, other_covariances: Tensor) -> Tensor:
    """Bhattacharyya distances between normals, in nats, >= 0: zero for equal ones, symmetric. Costs K L D^3.

    (m_i - m_j)' S^-1 (m_i - m_j) / 8 + log(det S / sqrt(det S_i det S_j)) / 2 with S = (S_i + S_j) / 2: (K, L) of means
    (K, D), covariances (K, D, D), and others (L, D), (L, D, D).
    """
    half, other_half = (log_det_of_factor(robust_cholesky(each)[0]) / 2 for each in (covariances, other_covariances))
    rows = []
    for mean, covariance, half_log_det in zip(means, covariances, half, strict=True):
        middle, _ = robust_cholesky((other_covariances + covariance) / 2)
        white = torch.linalg.solve_triangular(middle, (other_means - mean)[..., None], upper=False)
        distance = white.square().sum((-2, -1)) / 8
        rows.append(distance + log_det_of_factor(middle) / 2 - (other_half + half_log_det) / 2)
    return torch.stack(rows)
