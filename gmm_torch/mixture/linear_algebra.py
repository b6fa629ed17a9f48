"""Triangular factors of positive-definite matrices, and log-densities from distances."""

import math

import torch
from torch import Tensor

from gmm_torch.devices import is_host

__all__ = [
    "covariance_factor",
    "factor_of_covariance",
    "factor_of_precision",
    "log_det_of_factor",
    "log_normal",
    "log_normal_cdf",
    "precision_factor",
    "require_positive",
    "robust_cholesky",
    "times_transpose",
]

_JITTER_STEPS = 6
# Largest asymmetry, and largest correction to the diagonal, that counts as rounding, relative to the diagonal.
_TOLERANCE = 1e-3
# Chebyshev coefficients of log(erfc(z) exp(z^2) / t) in t = 1 / (1 + z / 2), as a polynomial.
_ERFC = (
    *(-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806),
    *(0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277),
)


def robust_cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factors (..., D, D) of nearly positive-definite matrices, and the jitter (...,); never raises.

    Jitter grows tenfold per attempt from `100 * eps * mean diagonal`, only for the matrices that fail. If all attempts
    fail, the factor is that of the diagonal and the jitter infinite. A CPU stops as soon as all succeed; reading the
    codes would stall an accelerator, so there all the (cheap) attempts run.
    """
    eps = torch.finfo(matrix.dtype).eps
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    floor = (diagonal.mean(-1).clamp_min(torch.finfo(matrix.dtype).tiny ** 0.5) * 100 * eps)[..., None]
    factor, code = torch.linalg.cholesky_ex(matrix)
    jitter = torch.zeros_like(floor[..., 0])
    on_host = is_host(matrix.device)
    for step in range(_JITTER_STEPS):
        if on_host and not bool(code.any()):
            return factor, jitter
        amount = floor * 10.0**step
        attempt, attempt_code = torch.linalg.cholesky_ex(matrix + torch.diag_embed(amount.expand_as(diagonal)))
        failed = code != 0
        factor = torch.where(failed[..., None, None], attempt, factor)
        jitter = torch.where(failed, amount[..., 0], jitter)
        code = torch.where(failed, attempt_code, code)
    failed = code != 0
    fallback = torch.diag_embed(torch.maximum(diagonal, floor).sqrt())
    factor = torch.where(failed[..., None, None], fallback, factor)
    return factor, torch.where(failed, torch.full_like(jitter, torch.inf), jitter)


def precision_factor(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Upper triangular `U` (..., D, D) with `U @ U.T` the inverse of `covariance`, and the jitter used.

    Whitening a row vector is then `(x - mean) @ U`, a plain matrix product, which exports and differentiates where a
    triangular solve does not.
    """
    lower, jitter = robust_cholesky(covariance)
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False).mT.contiguous(), jitter


def covariance_factor(factor: Tensor) -> Tensor:
    """Lower triangular `L` with `L @ L.T` the covariance, from the precision factor `U`: its inverse transpose."""
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    result: Tensor = torch.linalg.solve_triangular(factor, identity, upper=True).mT
    return result


def factor_of_covariance(covariance: Tensor, name: str) -> Tensor:
    """`precision_factor`; ValueError unless `covariance` is finite, symmetric and positive definite."""
    size = covariance.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    asymmetry = (covariance - covariance.mT).abs().amax((-2, -1))
    factor, jitter = precision_factor(covariance)
    good = (asymmetry <= _TOLERANCE * size) & (jitter <= _TOLERANCE * size) & torch.isfinite(factor).all(-1).all(-1)
    if not bool(good.all()):
        bad = (~good.reshape(-1)).nonzero()[:, 0].tolist()
        raise ValueError(f"{name}: expected symmetric positive-definite matrices; got others at components {bad}")
    return factor


def factor_of_precision(precision: Tensor, name: str) -> Tensor:
    """Upper triangular U (..., D, D) with U U' the given `precision`; raises as `factor_of_covariance` does."""
    # The inverse of the reversed matrix has the factor V with V V' = (J P J)^-1; its inverse transpose is the lower
    # factor of J P J, and reversing that gives the upper factor of P.
    upper = factor_of_covariance(precision.flip(-2, -1), name)
    return covariance_factor(upper).flip(-2, -1).contiguous()


def require_positive(value: Tensor, name: str) -> Tensor:
    """`value`; ValueError unless every entry is finite and positive."""
    if not bool((torch.isfinite(value) & (value > 0)).all()):
        raise ValueError(f"{name}: expected finite numbers > 0; got {float(value.min()):g} or NaN")
    return value


def times_transpose(factor: Tensor) -> Tensor:
    """`factor @ factor.mT` (..., D, D); overflow gives infinity, where the plain product would give NaN."""
    size = factor.detach().abs().amax(-1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    scaled = factor / size[..., None]
    return (scaled @ scaled.mT) * size[..., None] * size[..., None, :]


def log_det_of_factor(factor: Tensor) -> Tensor:
    """Log-determinants (...,) of the matrices F F' with triangular factors F (..., D, D)."""
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


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
