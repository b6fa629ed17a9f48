"""Tail probabilities of one variable given another under a mixture of bivariate normals."""

import torch
from torch import Tensor

from gmm_torch.mixture.densities import log_normal, log_normal_cdf

# Smallest share of a variance that is left when the other variable is known: what float32 tells from none.
LEAST_LEFT = 2.0**-23


def log_conditional_tail(pairs: Tensor, log_weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """log P(Y <= y | X = x), (x, y) a draw from a mixture of normals; differentiable.

    Given x, Y is a mixture of normals again: the weights are the responsibilities of the components for x, means and
    variances those of the regressions of y on x (Bishop 2006, equations 2.81 and 2.82). Of pairs (N, 2), log-weights
    (K,), means (K, 2) and covariances (K, 2, 2), positive definite: (N,), at most 0.
    """
    deviation = pairs[:, None] - means  # (N, K, 2)
    variance = covariances[:, 0, 0]
    distance = deviation[..., 0].square() / variance
    share = (log_weights + log_normal(distance, variance.log(), 1)).log_softmax(-1)  # (N, K)
    slope = covariances[:, 0, 1] / variance
    left = covariances[:, 1, 1] - slope * covariances[:, 0, 1]
    scale = torch.maximum(left, LEAST_LEFT * covariances[:, 1, 1]).sqrt()
    standard = (deviation[..., 1] - slope * deviation[..., 0]) / scale
    return (share + log_normal_cdf(standard)).logsumexp(-1).clamp_max(0)
