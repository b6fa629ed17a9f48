"""Factors of matrices that a caller says are positive definite, or an error that says they are not."""

import torch
from torch import Tensor

from gmm_torch.mixture.linear_algebra import covariance_factor, precision_factor

# Largest asymmetry, and largest correction to the diagonal, that counts as rounding, relative to the diagonal.
TOLERANCE = 1e-3


def require_positive(value: Tensor, name: str) -> Tensor:
    """`value`; raises ValueError unless every entry is finite and positive."""
    if not bool((torch.isfinite(value) & (value > 0)).all()):
        raise ValueError(f"{name}: expected finite numbers > 0; got {float(value.min()):g} or NaN")
    return value


def checked_precision_factor(covariance: Tensor, name: str) -> Tensor:
    """Upper triangular U (..., D, D) with U U' the inverse of `covariance`; raises ValueError unless that is finite,
    symmetric and positive definite.
    """
    size = covariance.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    asymmetry = (covariance - covariance.mT).abs().amax((-2, -1))
    factor, jitter = precision_factor(covariance)
    good = (asymmetry <= TOLERANCE * size) & (jitter <= TOLERANCE * size) & torch.isfinite(factor).all(-1).all(-1)
    if not bool(good.all()):
        bad = (~good.reshape(-1)).nonzero()[:, 0].tolist()
        raise ValueError(f"{name}: expected symmetric positive-definite matrices; got others at components {bad}")
    return factor


def checked_factor_of_precision(precision: Tensor, name: str) -> Tensor:
    """Upper triangular U (..., D, D) with U U' the given `precision`; raises as `checked_precision_factor` does."""
    # The inverse of the reversed matrix has the factor V with V V' = (J P J)^-1; its inverse transpose is the lower
    # factor of J P J, and reversing that gives the upper factor of P.
    upper = checked_precision_factor(precision.flip(-2, -1), name)
    return covariance_factor(upper).flip(-2, -1).contiguous()
