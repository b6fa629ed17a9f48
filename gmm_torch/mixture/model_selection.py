"""What a choice of the number of components and the covariance type by an information criterion gives."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from gmm_torch.mixture.density import MixtureDensity

M = TypeVar("M", bound=MixtureDensity)


@dataclass(frozen=True)
class Candidate(Generic[M]):
    """A fitted mixture, its mean log-likelihood per point in nats, and its criteria; lower is better."""

    mixture: M
    score: float
    bic: float
    aic: float


@dataclass(frozen=True)
class ModelSelection(Generic[M]):
    """Candidates from the best to the worst, by ascending criterion."""

    candidates: tuple[Candidate[M], ...]
    criterion: Literal["bic", "aic"]

    @property
    def best(self) -> M:
        """The mixture with the lowest criterion."""
        return self.candidates[0].mixture
