"""Choosing the number of components and the covariance type by an information criterion."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from gmm_torch.covariance import CovarianceType
from gmm_torch.errors import ConvergenceWarning
from gmm_torch.mixture import GaussianMixture


@dataclass(frozen=True)
class Candidate:
    """One fitted mixture and how it did.

    Attributes:
        mixture: the mixture.
        score: its mean log-likelihood per point, in nats.
        bic, aic: its criteria; lower is better.
    """

    mixture: GaussianMixture
    score: float
    bic: float
    aic: float


@dataclass(frozen=True)
class ModelSelection:
    """Candidates from the best to the worst.

    Attributes:
        candidates: by ascending criterion.
        criterion: what they are ordered by.
    """

    candidates: tuple[Candidate, ...]
    criterion: Literal["bic", "aic"]

    @property
    def best(self) -> GaussianMixture:
        """The mixture with the lowest criterion."""
        return self.candidates[0].mixture

    def table(self) -> str:
        """The candidates as a Markdown table."""
        lines = ["| components | type | parameters | log-likelihood | BIC | AIC | converged |", "| --- " * 7 + "|"]
        for candidate in self.candidates:
            mixture = candidate.mixture
            lines.append(
                f"| {mixture.n_components} | {mixture.covariance_type} | {mixture.n_parameters()} | "
                f"{candidate.score:.4f} | {candidate.bic:.1f} | {candidate.aic:.1f} | "
                f"{'yes' if mixture.converged else 'no'} |"
            )
        return "\n".join(lines)


def select(
    x: Tensor,
    n_components: Iterable[int],
    covariance_types: Iterable[CovarianceType] = ("full", "tied", "diag", "spherical"),
    *,
    criterion: Literal["bic", "aic"] = "bic",
    **options: Any,
) -> ModelSelection:
    """Fit every combination and order them by an information criterion.

    A fit that fails is an error, not a gap in the table; one that does not converge is marked in the table instead of
    warned of.

    Args:
        x: (N, D); the mixtures take its device, and its type where that is float64.
        n_components: numbers of components to try.
        covariance_types: covariance types to try.
        criterion: "bic" or "aic".
        options: of `GaussianMixture.fit`.

    Raises:
        ValueError: nothing to try, another criterion, or what `GaussianMixture.fit` raises.
    """
    if criterion not in ("bic", "aic"):
        raise ValueError(f"criterion: expected 'bic' or 'aic'; got {criterion!r}")
    types = list(covariance_types)
    grid = [(k, name) for k in n_components for name in types]
    if not grid:
        raise ValueError("expected at least one number of components and one covariance type; got none")
    candidates = [_fit(x, k, name, options) for k, name in grid]
    return ModelSelection(tuple(sorted(candidates, key=lambda candidate: getattr(candidate, criterion))), criterion)


def _fit(x: Tensor, n_components: int, covariance_type: CovarianceType, options: dict[str, Any]) -> Candidate:
    dtype = x.dtype if x.element_size() == 8 else None
    mixture = GaussianMixture(n_components, x.shape[1], covariance_type, device=x.device, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(x, **options)
    return Candidate(mixture, mixture.score(x), mixture.bic(x), mixture.aic(x))
