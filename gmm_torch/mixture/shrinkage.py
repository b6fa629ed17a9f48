"""Shrinkage of covariance matrices that few points estimate."""

import torch
from torch import Tensor


def oracle_approximating_shrinkage(covariance: Tensor, n: Tensor) -> Tensor:
    """Covariance matrices drawn towards a multiple of the identity by as much as their points are few.

    The intensity is that of Chen, Wiesel, Eldar and Hero, "Shrinkage algorithms for MMSE covariance estimation" (2010),
    equation 23 (scikit-learn's `OAS` leaves out its terms in 2 / D). For Gaussian points it needs nothing but the
    matrix and the number of points, where Ledoit and Wolf's needs fourth moments.

    Args:
        covariance: (..., D, D), symmetric.
        n: (...,), number of points that each was estimated from, need not be whole.
    """
    d = covariance.shape[-1]
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    of_square = covariance.square().sum((-2, -1))
    numerator = (1 - 2 / d) * of_square + trace.square()
    denominator = (n + 1 - 2 / d) * (of_square - trace.square() / d)
    # No spread of the eigenvalues, no direction to shrink in: the identity is there already.
    tiny = torch.finfo(covariance.dtype).tiny
    intensity = torch.where(denominator > tiny, numerator / denominator.clamp_min(tiny), torch.ones_like(trace))
    intensity = intensity.clamp(0, 1)[..., None, None]
    identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return (1 - intensity) * covariance + intensity * (trace / d)[..., None, None] * identity
