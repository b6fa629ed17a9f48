"""Factorisations that do not raise."""

import torch
from torch import Tensor

from gmm_torch.devices import is_host

JITTER_STEPS = 6


def robust_cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factor of nearly positive-definite matrices, with the jitter that it took.

    Jitter grows tenfold per attempt from `100 * eps * mean diagonal`, only for the matrices that fail; one that
    never succeeds falls back to its diagonal. On a CPU the attempts stop as soon as all succeed; on an accelerator
    reading the codes would stall the stream, so the (cheap) attempts all run.

    Of symmetric matrices (..., D, D): their factors (..., D, D), and the jitter (...,) that was added to the diagonal,
    infinite where the fallback was taken.
    """
    eps = torch.finfo(matrix.dtype).eps
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    floor = (diagonal.mean(-1).clamp_min(torch.finfo(matrix.dtype).tiny ** 0.5) * 100 * eps)[..., None]
    factor, code = torch.linalg.cholesky_ex(matrix)
    jitter = torch.zeros_like(floor[..., 0])
    on_host = is_host(matrix.device)
    for step in range(JITTER_STEPS):
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
    """Upper triangular `U` with `U @ U.T` the inverse of `covariance`, and the jitter used.

    `U` (..., D, D) is the transposed inverse of the lower Cholesky factor; whitening a row vector is then
    `(x - mean) @ U`, a plain matrix product, which exports and differentiates where a triangular solve does not.
    """
    lower, jitter = robust_cholesky(covariance)
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False).mT.contiguous(), jitter


def times_transpose(factor: Tensor) -> Tensor:
    """`factor @ factor.mT` (..., D, D) of a factor (..., D, q) with rows of any size.

    What overflows becomes infinite; the plain product would be NaN where two overflowing terms differ in sign.
    """
    size = factor.detach().abs().amax(-1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    scaled = factor / size[..., None]
    return (scaled @ scaled.mT) * size[..., None] * size[..., None, :]


def covariance_factor(factor: Tensor) -> Tensor:
    """Lower triangular `L` with `L @ L.T` the covariance, from the precision factor `U`: its inverse transpose."""
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    result: Tensor = torch.linalg.solve_triangular(factor, identity, upper=True).mT
    return result


def log_det_of_factor(factor: Tensor) -> Tensor:
    """Log-determinants (...,) of the matrices F F' whose triangular factors F (..., D, D) are given."""
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
