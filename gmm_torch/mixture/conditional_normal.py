"""Normal distributions of some features, given the others."""

import torch
from torch import Tensor

from gmm_torch.mixture.densities import log_normal
from gmm_torch.mixture.linear_algebra import log_det_of_factor, robust_cholesky


class ConditionalNormal:
    """K normals of some features given the others (Bishop 2006, equations 2.81 and 2.82).

    Of means (K, D) and covariances (K, D, D); `known` (o,) and `unknown` (m,) int64 are the features that are given and
    wanted. The attribute `covariances` (K, m, m) is the same whatever the known features are.
    """

    def __init__(self, means: Tensor, covariances: Tensor, known: Tensor, unknown: Tensor) -> None:
        self.known_means, self.unknown_means = means[:, None, known], means[:, None, unknown]
        self.lower, _ = robust_cholesky(covariances[:, known[:, None], known])
        cross = covariances[:, known[:, None], unknown]
        self.white_cross = torch.linalg.solve_triangular(self.lower, cross, upper=False)  # (K, o, m)
        explained = self.white_cross.mT @ self.white_cross
        self.covariances = covariances[:, unknown[:, None], unknown] - explained

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities (K, n) of known features (n, o), and the means (K, n, m) of the unknown ones given them."""
        deviation = (values - self.known_means).mT  # (K, o, n)
        white = torch.linalg.solve_triangular(self.lower, deviation, upper=False)
        log_det = log_det_of_factor(self.lower)[:, None]
        density = log_normal(white.square().sum(1), log_det, values.shape[1])
        return density, self.unknown_means + white.mT @ self.white_cross
