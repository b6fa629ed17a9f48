"""Log-densities from distances."""

import math

import torch
from torch import Tensor

__all__ = ["log_normal", "log_normal_cdf"]

# Chebyshev coefficients of log(erfc(z) exp(z^2) / t) in t = 1 / (1 + z / 2), as a polynomial.
_ERFC = (
    *(-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806),
    *(0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277),
)


def log_normal(squared_distance: Tensor, log_det: Tensor, n_features: int) -> Tensor:
    """Log-densities (..., K) of normals in nats, from squared Mahalanobis distances (..., K) and log-determinants."""
    return -0.5 * (n_features * math.log(2 * math.pi) + log_det + squared_distance)


def log_normal_cdf(x: Tensor) -> Tensor:
    """log P(Z <= x), Z standard normal, to a relative error of about 1e-7, with its gradient, for x of any size.

    It uses the approximation of erfc in Press et al., "Numerical recipes", 2nd edition, section 6.2 (`erfcc`), whose
    logarithm does not overflow. In the tails `torch.special.log_ndtr` loses its gradient in float32, and its export to
    ONNX gives NaN.
    """
    z = x.abs() * 0.5**0.5
    t = 1 / (1 + 0.5 * z)
    series = torch.full_like(t, _ERFC[-1])
    for coefficient in _ERFC[-2::-1]:
        series = series * t + coefficient
    log_tail = t.log() - z.square() + series - math.log(2)  # log(erfc(z) / 2) = log P(Z <= -|x|)
    return torch.where(x < 0, log_tail, torch.log1p(-log_tail.exp()))
