"""A separate covariance matrix for every component."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gmm_torch.devices import is_host
from gmm_torch.mixture.covariance.base import Factors, weighted_sums, workspace_view
from gmm_torch.mixture.covariance.triangular import Triangular
from gmm_torch.mixture.linear_algebra import covariance_factor, log_normal
from gmm_torch.mixture.parameters import Parameters

# Rows of a triangle per matrix product, for all components: few, so that little of the product is spent on the other
# triangle, yet enough to run at full speed.
_BLOCK_ROWS = 16
# An accelerator divides a larger triangle into this many blocks: few large products are faster there.
_N_BLOCKS = 4
# If a smaller fraction of responsibilities is not negligible, a CPU's M-step takes the components one by one. (Counting
# them would stall an accelerator.)
_FEW = 0.2

__all__ = ["Full"]


class Full(Triangular):
    """Factors: {"factor": (..., K, D, D)}, upper triangular U with U U' the precision of the component.

    EM needs a triangle of a (D, D) matrix per point and component twice: whitening U' x in the E-step, second moments
    in the M-step. Both process a few rows at a time, for all components at once and only up to the diagonal: large
    matrix products that skip the other triangle. Forms linear in the D (D + 1) / 2 products of two features would cost
    as many multiplications, but write and read the products, and lose twice the digits.
    """

    name = "full"

    def squared_distance(self, x: Tensor, means: Tensor, factors: Factors) -> Tensor:
        centred = x - means[:, None]  # (K, N, D)
        return (centred @ factors["factor"]).square().sum(-1).mT

    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        return self.covariances(factors, n_features)

    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        # x = U'^-1 e has covariance (U U')^-1. Component by component: (S, D, D) would not fit.
        lower = covariance_factor(factors["factor"])
        deviation = torch.empty_like(noise)
        for k in component.unique().tolist():
            chosen = component == k
            deviation[chosen] = noise[chosen] @ lower[k].mT
        return deviation

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def n_scratch(self, n_mixtures: int, n_components: int, n_features: int, device: torch.device) -> int:
        return n_mixtures * n_components * min(_block_rows(n_features, device), n_features)

    def precision_times(self, vectors: Tensor, factors: Factors) -> Tensor:
        upper = factors["factor"]
        return (upper @ (upper.mT @ vectors[..., None]))[..., 0]

    def prepare(self, parameters: Parameters, reg_covar: Tensor) -> Factors:
        """{"rows": (..., K, D, 1 + D), "constant": (..., K), "share": (..., K)}.

        Rows [-U' mean, U'] whiten [1, x]; the constant holds the other terms, the share the weights. In memory each row
        has all components side by side.
        """
        upper, n_features = parameters.factors["factor"], parameters.means.shape[-1]
        shift = upper.mT @ parameters.means[..., None]
        rows = torch.cat([-shift, upper.mT], dim=-1).movedim(-2, 0).contiguous().movedim(0, -2)
        share = parameters.log_weights.exp()
        penalty = (self.precision_diagonal(parameters.factors, n_features) * reg_covar).sum(-1)
        log_norm = log_normal(penalty, self.log_det(parameters.factors, n_features), n_features)
        return {"rows": rows, "constant": parameters.log_weights + log_norm, "share": share}

    def log_joint(self, prepared: Factors, features: Tensor, scratch: Tensor | None = None) -> Tensor:
        rows = _white_rows(prepared["rows"], features, scratch)
        first = next(rows)
        joint = torch.addcmul(prepared["constant"][..., None], first, first, value=-0.5)
        for row in rows:
            joint.addcmul_(row, row, value=-0.5)
        return joint

    def moments(
        self,
        prepared: Factors,
        features: Tensor,
        responsibilities: Tensor,
        out: Factors | None = None,
        scratch: Tensor | None = None,
    ) -> Factors:
        """{"moments": (..., K, 1 + D), "second": (..., K, D, D)}; only the lower triangle of "second" is valid.

        In memory each row of "second" has all components side by side.
        """
        columns = features[1:]
        result = super().moments(prepared, features, responsibilities, out)
        shape = responsibilities.shape[:-1]
        if out is not None and is_host(columns.device):
            kept = _worth_adding(responsibilities, prepared["share"]).flatten(0, -2)
            sizes = kept.sum(-1).tolist()
            if sum(sizes) < _FEW * kept.numel():
                _add_few(columns, responsibilities, kept.flatten().nonzero()[:, 0], sizes, out["second"])
                return result
        rows = None if out is None else out["second"].movedim(-2, 0)  # (D, ..., K, D)
        parts = []
        for start, end in _blocks(len(columns), columns.device):
            block = columns[start:end].view(end - start, *[1] * len(shape), -1)
            view = workspace_view(scratch, end - start, *responsibilities.shape)
            weighted = torch.mul(block, responsibilities, out=view).flatten(0, -2)
            if rows is None:
                part = weighted_sums(weighted, columns[:end])
                parts.append(F.pad(part, (0, len(columns) - end)).view(end - start, *shape, -1))
            else:
                rows[start:end, ..., :end].view(-1, end).addmm_(weighted, columns[:end].mT)
        return result if out is not None else result | {"second": torch.cat(parts).movedim(0, -2)}

    def estimate(self, moments: Factors, means: Tensor, counts: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        lower = moments["second"] / counts[..., None, None]
        covariance = lower.tril() + lower.tril(-1).mT - means[..., :, None] * means[..., None, :]
        return self.factorise(covariance, reg_covar)


def _worth_adding(responsibilities: Tensor, share: Tensor) -> Tensor:
    """Mask of responsibilities (..., K, n) that are not negligible, for components with shares (..., K) of the points.

    The others add up to less than the machine's precision times the component's expected count.
    """
    n = max(1, responsibilities.shape[-1])
    mean_weight = responsibilities.sum((-2, -1), keepdim=True) / n
    return responsibilities > torch.finfo(responsibilities.dtype).eps * mean_weight * share[..., None]


def _add_few(columns: Tensor, responsibilities: Tensor, kept: Tensor, sizes: list[int], second: Tensor) -> None:
    """Add the kept columns (D, n) of each component to second moments (..., K, D, D), both triangles.

    `kept` (M,) are ascending flat positions in responsibilities (..., K, n); `sizes` counts them per component.
    """
    chosen = columns.index_select(1, kept % columns.shape[1])
    weighted = chosen * responsibilities.flatten().index_select(0, kept)
    flat, end = second.flatten(0, -3), 0
    for k, size in enumerate(sizes):
        start, end = end, end + size
        if size:
            flat[k].addmm_(weighted[:, start:end], chosen[:, start:end].mT)


def _white_rows(rows: Tensor, features: Tensor, scratch: Tensor | None = None) -> Iterator[Tensor]:
    """Yield tensors (..., K, n) whose squares sum to the squared norm of the whitened points [1, x] (1 + D, n).

    On the host they are the D features: added row by row, the sum stays in the cache. On an accelerator they are the
    norms of blocks of rows, one operation each. With scratch, each is overwritten by a later one.
    """
    rows = rows.movedim(-2, 0)  # (D, ..., K, 1 + D)
    for start, end in _blocks(len(rows), rows.device):
        flat = rows[start:end, ..., : end + 1].flatten(0, -2)
        white = torch.mm(flat, features[: end + 1], out=workspace_view(scratch, len(flat), features.shape[1]))
        white = white.view(end - start, *rows.shape[1:-1], -1)
        if is_host(white.device):
            yield from white
        else:
            yield torch.linalg.vector_norm(white, dim=0)


def _block_rows(n_rows: int, device: torch.device) -> int:
    """Number of rows per matrix product for a triangle of `n_rows` rows."""
    return _BLOCK_ROWS if is_host(device) else max(_BLOCK_ROWS, -(-n_rows // _N_BLOCKS))


def _blocks(n_rows: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Start and end of each block of rows of a triangle."""
    size = _block_rows(n_rows, device)
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)
