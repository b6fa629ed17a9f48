"""Choosing the number of components and the covariance type by an information criterion."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from torch import Tensor

from gmm_torch.covariance import CovarianceType
from gmm_torch.density import MixtureDensity
from gmm_torch.errors import ConvergenceWarning

M = TypeVar("M", bound=MixtureDensity)


@dataclass(frozen=True)
class Candidate(Generic[M]):
    """One fitted mixture and how it did.

    Attributes:
        mixture: the mixture.
        score: its mean log-likelihood per point, in nats.
        bic, aic: its criteria; lower is better.
    """

    mixture: M
    score: float
    bic: float
    aic: float


@dataclass(frozen=True)
class ModelSelection(Generic[M]):
    """Candidates from the best to the worst.

    Attributes:
        candidates: by ascending criterion.
        criterion: what they are ordered by.
    """

    candidates: tuple[Candidate[M], ...]
    criterion: Literal["bic", "aic"]

    @property
    def best(self) -> M:
        """The mixture with the lowest criterion."""
        return self.candidates[0].mixture


def select(
    fit: Callable[[int, CovarianceType], M],
    x: Tensor,
    n_components: Iterable[int],
    covariance_types: Iterable[CovarianceType],
    criterion: Literal["bic", "aic"],
) -> ModelSelection[M]:
    """See `GaussianMixture.select`; `fit` gives a mixture fitted to x."""
    if criterion not in ("bic", "aic"):
        raise ValueError(f"criterion: expected 'bic' or 'aic'; got {criterion!r}")
    types = list(covariance_types)
    grid = [(k, name) for k in n_components for name in types]
    if not grid:
        raise ValueError("expected at least one number of components and one covariance type; got none")
    candidates = []
    for k, name in grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = fit(k, name)
        candidates.append(Candidate(mixture, mixture.score(x), mixture.bic(x), mixture.aic(x)))
    return ModelSelection(tuple(sorted(candidates, key=lambda candidate: getattr(candidate, criterion))), criterion)
