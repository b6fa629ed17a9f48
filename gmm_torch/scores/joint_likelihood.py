"""Base of the scores with one mixture over all that they read."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor

from gmm_torch.checks import check_count
from gmm_torch.features.features import Features, in_chunks
from gmm_torch.features.projection import Projection
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores.base import N_COMPONENTS, Fitter, Score
from gmm_torch.scores.feature_mixture import Block, FeatureMixture, sized


class JointLikelihood(Score):
    """log p of one vector for each input, projected where it is wide. No score by itself.

    Args:
        n_components: the largest K; fewer where there are fewer than twenty fitting inputs for each.
        covariance_type: see `GaussianMixture`.
    """

    def __init__(self, n_components: int = N_COMPONENTS, covariance_type: str = "full") -> None:
        super().__init__()
        check_count("n_components", n_components)
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.projection = Projection(1)  # like the mixture, of the right size after `build`
        self.mixture = GaussianMixture(1, 1, covariance_type)
        self.blocks: Sequence[Block] = []

    def make_blocks(self, widths: dict[str, int], n_views: int, n_classes: int) -> Sequence[Block]:
        """Blocks of the S numbers of `features`, in order."""
        raise NotImplementedError

    def features(self, outputs: Features) -> Tensor:
        """The vector before the projection: (N, S)."""
        raise NotImplementedError

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.blocks = self.make_blocks(widths, n_views, n_classes)
        self.projection = Projection(sum(len(block.groups) * block.width for block in self.blocks))
        self.mixture = GaussianMixture(self.n_components, self.projection.width, self.covariance_type)
        return self

    def points(self, outputs: Features) -> Tensor:
        """The points that the mixture models, (N, D)."""
        result: Tensor = self.projection(self.features(outputs))
        return result

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        self.projection.fit(in_chunks(self.features, outputs))
        points = in_chunks(self.points, outputs)
        self.mixture = sized(self.mixture, points)
        fitter(self.mixture, points)
        return self

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats."""
        result: Tensor = self.mixture(self.points(outputs))
        return result

    def models(self) -> dict[str, FeatureMixture]:
        return {self.name: FeatureMixture(self.mixture, self.features, self.blocks, self.projection)}
