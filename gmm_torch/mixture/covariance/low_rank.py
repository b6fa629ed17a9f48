"""Mixtures of factor analysers: a few directions of high variance plus a variance for every feature."""

import math

import torch
from torch import Tensor

from gmm_torch.checks import check_count
from gmm_torch.mixture.covariance.base import CovarianceFamily, Factors, weighted_sums, workspace_view
from gmm_torch.mixture.linear_algebra import log_normal, require_positive, times_transpose
from gmm_torch.mixture.parameters import Parameters

__all__ = ["LowRank"]

# Initial size of a component's loadings relative to the noise; from zero, EM would never find any.
_SEED_SIZE = 1e-3
# Share of the variance along the first directions that the start gives to the loadings; EM moves the rest as needed.
_START_SHARE = 0.5


class LowRank(CovarianceFamily):
    """Covariances W W' + diag(psi), W of D rows and `rank` columns (Ghahramani and Hinton 1996).

    Factors: {"loadings": W (..., K, D, q), "noise": psi^-1/2 (..., K, D)}. No D x D matrix is formed: D = 2,048 with
    K = 100 takes tens of megabytes. q is `rank`, at most D - 1. The covariances' natural shape is (..., K, D, q + 1):
    the loadings and, in the last column, the variances of the noise.

    With V = W / sqrt(psi) and the factorisation [V; I] = [U; T] R into orthonormal columns and a triangle, the
    precision is diag(noise) (I - U U') diag(noise) and T is the inverse of R, so no linear system is solved. Below, A
    is diag(noise) U.

    EM is that of Rubin and Thayer (1982) on each component's scatter about its new mean: it never lowers the
    likelihood, but converges more slowly than the closed forms of the other families.

    Args:
        rank: number of directions, at least 1, as in {"name": "low_rank", "rank": 20}.
    """

    name = "low_rank"
    averages = False

    def __init__(self, rank: int = 10) -> None:
        check_count("rank", rank)
        self.rank = rank

    def _rank(self, n_features: int) -> int:
        return max(1, min(self.rank, n_features - 1))

    # ---- the matrices

    def squared_distance(self, x: Tensor, means: Tensor, factors: Factors) -> Tensor:
        # The smallest |c - V h|^2 + |h|^2 over h, c the deviation in units of the noise: two positive terms, where the
        # difference of |c|^2 and |U' c|^2 would cancel.
        directions, inverse, _ = _decompose(factors)
        white = (x - means[:, None]) * factors["noise"][:, None]  # (K, N, D)
        along = white @ directions  # (K, N, q)
        residual = white - along @ directions.mT
        return (residual.square().sum(-1) + (along @ inverse.mT).square().sum(-1)).mT

    def log_det(self, factors: Factors, n_features: int) -> Tensor:
        _, _, triangle = _decompose(factors)
        gain = triangle.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        return 2 * (gain - factors["noise"].log().sum(-1))

    def covariances(self, factors: Factors, n_features: int) -> Tensor:
        noise = factors["noise"].square().reciprocal()
        return torch.cat([factors["loadings"], noise[..., None]], dim=-1)

    def from_covariances(self, covariances: Tensor) -> Factors:
        noise = require_positive(covariances[..., -1], "covariances (variances of the noise)")
        return {"loadings": covariances[..., :-1], "noise": noise.rsqrt()}

    def dense(self, factors: Factors, n_components: int, n_features: int) -> Tensor:
        return times_transpose(factors["loadings"]) + torch.diag_embed(factors["noise"].square().reciprocal())

    def transform_noise(self, noise: Tensor, component: Tensor, factors: Factors) -> Tensor:
        # (I + V C V')(I + V C V')' = I + V V' for C = (I + L)^-1, L the lower Cholesky factor of I + V' V.
        _, _, triangle = _decompose(factors)
        lower = (triangle * triangle.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT
        eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        mixing = torch.linalg.solve_triangular(lower + eye, eye.expand_as(lower), upper=False)
        scaled = factors["loadings"] * factors["noise"][..., None]
        deviation = torch.empty_like(noise)
        for k in component.unique().tolist():
            chosen = component == k
            drawn = noise[chosen]
            mixed = (drawn @ scaled[k]) @ mixing[k].mT @ scaled[k].mT
            deviation[chosen] = (drawn + mixed) / factors["noise"][k]
        return deviation

    def n_parameters(self, n_components: int, n_features: int) -> int:
        q = self._rank(n_features)
        return n_components * (n_features * (q + 1) - q * (q - 1) // 2)

    def rescale(self, factors: Factors, scale: Tensor) -> Factors:
        return {"loadings": factors["loadings"] * scale[:, None], "noise": factors["noise"] / scale}

    def unconstrain(self, factors: Factors) -> Factors:
        return {"loadings": factors["loadings"], "noise": factors["noise"].log()}

    def constrain(self, raw: Factors) -> Factors:
        return {"loadings": raw["loadings"], "noise": raw["noise"].exp()}

    def unit(self, n_components: int, n_features: int) -> Factors:
        loadings = torch.zeros(n_components, n_features, self._rank(n_features))
        return {"loadings": loadings, "noise": torch.ones(n_components, n_features)}

    # ---- the pieces of EM

    def products(self, columns: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(columns, columns, out=out)

    def n_products(self, n_features: int) -> int:
        return n_features

    def n_scratch(self, n_mixtures: int, n_components: int, n_features: int, device: torch.device) -> int:
        return n_mixtures * n_components * self._rank(n_features)

    def precision_times(self, vectors: Tensor, factors: Factors) -> Tensor:
        basis = self._basis(factors)
        along = (basis.mT @ vectors[..., None])[..., 0]
        return vectors * factors["noise"].square() - (basis @ along[..., None])[..., 0]

    def precision_diagonal(self, factors: Factors, n_features: int) -> Tensor:
        return factors["noise"].square() - self._basis(factors).square().sum(-1)

    def precision_norm(self, factors: Factors, n_features: int) -> Tensor:
        basis, precision = self._basis(factors), factors["noise"].square()
        cross = (basis.square().sum(-1) * precision).sum(-1)
        square = precision.square().sum(-1) - 2 * cross + (basis.mT @ basis).square().sum((-2, -1))
        return square.clamp_min(0).sqrt()

    def prepare(self, parameters: Parameters, reg_covar: Tensor) -> Factors:
        """{"natural": (..., K, 1 + 2 D), "basis": (..., K, D, q), "shift": (..., K, q)}.

        The log-density is linear in one, features and squares, plus half the square of A' (x - mean).
        """
        means, factors = parameters.means, parameters.factors
        n_features = means.shape[-1]
        basis, precision = self._basis(factors), factors["noise"].square()
        penalty = (self.precision_diagonal(factors, n_features) * reg_covar).sum(-1)
        log_norm = log_normal(penalty, self.log_det(factors, n_features), n_features)
        constant = parameters.log_weights + log_norm - 0.5 * (means.square() * precision).sum(-1)
        natural = torch.cat([constant[..., None], means * precision, -0.5 * precision], dim=-1)
        shift = (basis.mT @ means[..., None])[..., 0]
        return {"natural": natural, "basis": basis.mT.contiguous(), "shift": shift}

    def log_joint(self, prepared: Factors, features: Tensor, scratch: Tensor | None = None) -> Tensor:
        along = self._project(prepared, features, scratch)
        square = torch.square(along, out=None if scratch is None else along).sum(-2)
        return super().log_joint(prepared, features).add(square, alpha=0.5)

    def moments(
        self,
        prepared: Factors,
        features: Tensor,
        responsibilities: Tensor,
        out: Factors | None = None,
        scratch: Tensor | None = None,
    ) -> Factors:
        """{"moments": (..., K, 1 + 2 D), "cross": (..., K, q, D)}, the latter of A' (x - old mean) with x."""
        columns = features[1 : prepared["basis"].shape[-1] + 1]
        along = self._project(prepared, features, scratch)
        weighted = torch.mul(along, responsibilities[..., None, :], out=None if scratch is None else along)
        weighted = weighted.flatten(0, -2)
        result = super().moments(prepared, features, responsibilities, out)
        if out is None:
            return result | {"cross": weighted_sums(weighted, columns).view(prepared["basis"].shape)}
        out["cross"].view(-1, len(columns)).addmm_(weighted, columns.mT)
        return out

    def update(self, moments: Factors, reg_covar: Tensor, previous: Parameters) -> tuple[Parameters, Tensor]:
        old = {"old_means": previous.means, **{f"old_{name}": value for name, value in previous.factors.items()}}
        return super().update(moments | old, reg_covar, previous)

    def start(self, moments: Factors, reg_covar: Tensor, previous: Parameters) -> tuple[Parameters, Tensor]:
        """The first M-step: loadings along the part of the scatter that the old directions see."""
        return self.update(moments | {"start": reg_covar}, reg_covar, previous)

    def estimate(self, moments: Factors, means: Tensor, counts: Tensor, reg_covar: Tensor) -> tuple[Factors, Tensor]:
        n_features = means.shape[-1]
        old = {"loadings": moments["old_loadings"], "noise": moments["old_noise"]}
        directions, _, triangle = _decompose(old)
        basis = old["noise"][..., None] * directions  # A
        table = moments["moments"]
        second = table[..., n_features + 1 :] / counts[..., None]
        variance = (second - means.square()).clamp_min(0) + reg_covar
        # Sum of A' (x - old mean), to move the cross moments from the old means to the new ones.
        total = table[..., 1 : n_features + 1] - table[..., :1] * moments["old_means"]
        along = (basis.mT @ total[..., None])[..., 0]  # (..., K, q)
        cross = (moments["cross"].mT - means[..., None] * along[..., None, :]) / counts[..., None, None]
        cross = cross + reg_covar[:, None] * basis  # (..., K, D, q)
        inner = basis.mT @ cross
        inner = (inner + inner.mT) / 2
        eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
        if "start" in moments:
            # Nystrom approximation of the scatter from its sketch along A.
            size = inner.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
            lower = torch.linalg.cholesky_ex(inner + 1e-9 * size.clamp_min(1e-200) * eye)[0]
            found = torch.linalg.solve_triangular(lower, cross.mT, upper=False).mT
            loadings = math.sqrt(_START_SHARE) * found
            explained = loadings.square().sum(-1)
        else:
            lower = torch.linalg.cholesky_ex(inner + eye)[0]
            half = torch.linalg.solve_triangular(lower, cross.mT, upper=False).mT
            loadings = torch.linalg.solve_triangular(lower.mT, half.mT, upper=True).mT @ triangle
            explained = half.square().sum(-1)
        # Positive in exact arithmetic; this cuts off rounding.
        noise = torch.maximum(variance - explained, 1e-12 * variance)
        return {"loadings": loadings, "noise": noise.rsqrt()}, torch.zeros_like(counts)

    def fresh(self, variance: Tensor) -> Factors:
        n_features = len(variance)
        generator = torch.Generator().manual_seed(0)
        shape = n_features, self._rank(n_features)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        directions = torch.linalg.qr(drawn)[0]
        loadings = _SEED_SIZE * variance.sqrt()[:, None] * directions.to(variance)
        return {"loadings": loadings, "noise": (variance - loadings.square().sum(-1)).rsqrt()}

    def _basis(self, factors: Factors) -> Tensor:
        """A, (..., K, D, q)."""
        return factors["noise"][..., None] * _decompose(factors)[0]

    def _project(self, prepared: Factors, features: Tensor, scratch: Tensor | None) -> Tensor:
        """A' (x - mean), (..., K, q, n)."""
        flat = prepared["basis"].flatten(0, -2)
        columns = features[1 : flat.shape[1] + 1]
        along = torch.mm(flat, columns, out=workspace_view(scratch, len(flat), columns.shape[1]))
        along = along.view(*prepared["shift"].shape, -1)
        return torch.sub(along, prepared["shift"][..., None], out=None if scratch is None else along)


def _decompose(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """U (..., K, D, q), R^-1 and R (..., K, q, q) of [V; I] = [U; R^-1] R; see `LowRank`."""
    scaled = factors["loadings"] * factors["noise"][..., None]
    n_features, rank = scaled.shape[-2:]
    eye = torch.eye(rank, dtype=scaled.dtype, device=scaled.device).expand(*scaled.shape[:-2], rank, rank)
    orthonormal, triangle = torch.linalg.qr(torch.cat([scaled, eye], dim=-2))
    return orthonormal[..., :n_features, :], orthonormal[..., n_features:, :], triangle
