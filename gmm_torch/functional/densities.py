"""Log-densities from distances."""

import math

from torch import Tensor


def log_normal(squared_distance: Tensor, log_det: Tensor, n_features: int) -> Tensor:
    """Log-density of a D-variate normal in nats.

    Args:
        squared_distance: (..., K), squared Mahalanobis distances to the means.
        log_det: (..., K) or broadcastable, log-determinants of the covariances.
        n_features: D.

    Returns:
        (..., K).
    """
    return -0.5 * (n_features * math.log(2 * math.pi) + log_det + squared_distance)
