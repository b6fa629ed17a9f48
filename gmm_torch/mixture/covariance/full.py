"""A covariance matrix of its own for every component."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gmm_torch.devices import is_host
from gmm_torch.mixture.covariance.base import Factors, weighted_sums, workspace_view
from gmm_torch.mixture.covariance.triangular import Triangular
from gmm_torch.mixture.densities import log_normal
from gmm_torch.mixture.linear_algebra import covariance_factor
from gmm_torch.mixture.parameters import Parameters

# Rows of a triangle that one matrix product takes, for all components: few, so that little of the product is spent on
# the other triangle, yet enough for it to run at the machine's rate.
BLOCK_ROWS = 16
# Into so many blocks, all the same, an accelerator divides a triangle of more rows: a few large products, of whose
# multiplications 5/8 are spent on a square's half.
N_BLOCKS = 4
# On a CPU, the fraction of responsibilities that are not negligible below which the M-step takes them one component at
# a time. (On an accelerator counting them would stall the stream.)
FEW = 0.2


class Full(Triangular):
    """Factors: {"factor": (..., K, D, D)}, upper triangular U with U U' the precision of the component.

    EM needs a triangle of a (D, D) matrix per point and component twice: the whitening U' x of the E-step, the second
    moments of the M-step. Both are taken a few rows at a time, of all components at once, each block of rows as far as
    the diagonal: large matrix products that leave out the other triangle. Forms linear in the D (D + 1) / 2 products of
    two features would cost as many multiplications, but write and read the products, and lose twice the digits.
    """

    name = "full"

    def squared_distance(self, x: Tensor, means: Tensor, factors: Factors) -> Tensor:
        """See `CovarianceFamily`; O(N K D) memory."""
        centred = x - means[:, None]  # (K, N, D)
        return (centred @ factors["factor"]).square().sum(-1).mT

    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        """(..., K, D, D)."""
        return self.covariances(factors, n_features)

    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        """(S, D)."""
        # x = U'^-1 e has covariance (U U')^-1. Component by component: (S, D, D) would not fit.
        lower = covariance_factor(factors["factor"])
        deviation = torch.empty_like(noise)
        for k in component.unique().tolist():
            chosen = component == k
            deviation[chosen] = noise[chosen] @ lower[k].mT
        return deviation

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """K D (D + 1) / 2."""
        return n_components * n_features * (n_features + 1) // 2

    def unit(self, n_components: int, n_features: int) -> Factors:
        """(K, D, D) identities."""
        return {"factor": torch.eye(n_features, device="cpu").expand(n_components, -1, -1).clone()}

    def n_scratch(self, n_mixtures: int, n_components: int, n_features: int, device: torch.device) -> int:
        """A block of rows for each component."""
        return n_mixtures * n_components * min(block_rows(n_features, device), n_features)

    def precision_times(self, vectors: Tensor, factors: Factors) -> Tensor:
        """(..., K, D)."""
        upper = factors["factor"]
        return (upper @ (upper.mT @ vectors[..., None]))[..., 0]

    def prepare(self, parameters: Parameters, reg_covar: Tensor) -> Factors:
        """{"rows": (..., K, D, 1 + D), "constant": (..., K), "share": (..., K)}.

        The rows are [-U' mean, U'], which whitens [1, x], the constant is what is left, the share the weights.

        See `CovarianceFamily` for `reg_covar`. The rows lie in memory row by row, each with all components together.
        """
        upper, n_features = parameters.factors["factor"], parameters.means.shape[-1]
        shift = upper.mT @ parameters.means[..., None]
        rows = torch.cat([-shift, upper.mT], dim=-1).movedim(-2, 0).contiguous().movedim(0, -2)
        share = parameters.log_weights.exp()
        penalty = (self.precision_diagonal(parameters.factors, n_features) * reg_covar).sum(-1)
        log_norm = log_normal(penalty, self.log_det(parameters.factors, n_features), n_features)
        return {"rows": rows, "constant": parameters.log_weights + log_norm, "share": share}

    def log_joint(self, prepared: Factors, features: Tensor, scratch: Tensor | None = None) -> Tensor:
        """(..., K, n)."""
        rows = white_rows(prepared["rows"], features, scratch)
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
        """{"moments": (..., K, 1 + D), "second": (..., K, D, D)}: of "second" the lower triangle alone has a meaning.

        It lies in memory row by row, each with all components together.
        """
        columns = features[1:]
        result = super().moments(prepared, features, responsibilities, out)
        shape = responsibilities.shape[:-1]
        if out is not None and is_host(columns.device):
            kept = worth_adding(responsibilities, prepared["share"]).flatten(0, -2)
            sizes = kept.sum(-1).tolist()
            if sum(sizes) < FEW * kept.numel():
                add_few(columns, responsibilities, kept.flatten().nonzero()[:, 0], sizes, out["second"])
                return result
        rows = None if out is None else out["second"].movedim(-2, 0)  # (D, ..., K, D)
        parts = []
        for start, end in blocks(len(columns), columns.device):
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
        """Second moments about the mean, plus `reg_covar`."""
        lower = moments["second"] / counts[..., None, None]
        covariance = lower.tril() + lower.tril(-1).mT - means[..., :, None] * means[..., None, :]
        return self.factorise(covariance, reg_covar)


def worth_adding(responsibilities: Tensor, share: Tensor) -> Tensor:
    """Which responsibilities (..., K, n) are worth adding, for components that expect these shares (..., K) of points.

    What is left out of a component adds up to less than the machine's precision times what it expects.
    """
    n = max(1, responsibilities.shape[-1])
    mean_weight = responsibilities.sum((-2, -1), keepdim=True) / n
    return responsibilities > torch.finfo(responsibilities.dtype).eps * mean_weight * share[..., None]


def add_few(columns: Tensor, responsibilities: Tensor, kept: Tensor, sizes: list[int], second: Tensor) -> None:
    """Add to second moments (..., K, D, D), both triangles, those of the columns (D, n) that each component keeps.

    Kept (M,) are ascending flat positions in the responsibilities (..., K, n), so many of each component.
    """
    chosen = columns.index_select(1, kept % columns.shape[1])
    weighted = chosen * responsibilities.flatten().index_select(0, kept)
    flat, end = second.flatten(0, -3), 0
    for k, size in enumerate(sizes):
        start, end = end, end + size
        if size:
            flat[k].addmm_(weighted[:, start:end], chosen[:, start:end].mT)


def white_rows(rows: Tensor, features: Tensor, scratch: Tensor | None = None) -> Iterator[Tensor]:
    """Numbers (..., K, n) whose squares sum to those of the whitened features of points given as [1, x] (1 + D, n).

    On the host they are the D features: summed row by row the sum stays in the cache, and no squares are written. An
    accelerator gets a norm for each block of them, which is one operation.

    With scratch, each is gone when a later one is asked for.
    """
    rows = rows.movedim(-2, 0)  # (D, ..., K, 1 + D)
    for start, end in blocks(len(rows), rows.device):
        flat = rows[start:end, ..., : end + 1].flatten(0, -2)
        white = torch.mm(flat, features[: end + 1], out=workspace_view(scratch, len(flat), features.shape[1]))
        white = white.view(end - start, *rows.shape[1:-1], -1)
        if is_host(white.device):
            yield from white
        else:
            yield torch.linalg.vector_norm(white, dim=0)


def block_rows(n_rows: int, device: torch.device) -> int:
    """How many rows of a triangle of that many one matrix product takes."""
    return BLOCK_ROWS if is_host(device) else max(BLOCK_ROWS, -(-n_rows // N_BLOCKS))


def blocks(n_rows: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """First row, and the row after the last, of each block of a triangle's rows."""
    size = block_rows(n_rows, device)
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)
