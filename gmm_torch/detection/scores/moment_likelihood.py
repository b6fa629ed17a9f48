"""Log-likelihood of the directions of pooled features of several stages."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from gmm_torch.detection.features.layers import STAGES, stage_ends
from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.mixtures.feature_mixture import Block, FeatureMixture, sized
from gmm_torch.detection.mixtures.projection import Projection
from gmm_torch.detection.mixtures.transforms import unit
from gmm_torch.detection.scores.base import Fitter, Score
from gmm_torch.detection.streaming.chunks import in_chunks
from gmm_torch.mixture import GaussianMixture


class MomentLikelihood(Score):
    """One mixture over z = (f_1, f_2, ...) of all layers, each of unit norm.

    f holds the means of a layer's maps over space and their standard deviations. Early stages see texture, late ones
    content; the deviation tells a map that fires in one place from one that glows everywhere. The mixture is joint over
    layers, so it learns how they go together in clean images. Of layers that are found as "depths" it takes the ends of
    stages.

    Args:
        n_components: the largest K; fewer where there are fewer than twenty fitting inputs for each.
        covariance_type: see `GaussianMixture`.
        n_views: how many of the views, from the first, z is averaged over; fewer where there are fewer. Directions that
            differ between image and mirror shorten the mean, so noise is seen that looks typical in each.
    """

    name = "moment_likelihood"
    default_weights = (1 / 4, 1 / 4)
    layers = STAGES
    pooling = "moments"

    mixture: GaussianMixture

    def __init__(self, n_components: int = 10, covariance_type: str = "full", n_views: int = 2) -> None:
        super().__init__()
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.n_views = n_views
        self.projection = Projection(1)  # like the mixture, of the right width after `build`
        self.mixture = GaussianMixture(n_components, 1, covariance_type)
        self.blocks: list[Block] = []

    def reads(self, layers: Sequence[str], n_views: int) -> dict[str, int]:
        """See `Score`."""
        return dict.fromkeys(stage_ends(layers), min(self.n_views, n_views))

    def options(self) -> dict[str, Any]:
        """See `Score`."""
        keys = ("n_components", "covariance_type", "n_views")
        return {key: getattr(self, key) for key in keys}

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        """See `Score`."""
        averaged = tuple(range(min(self.n_views, n_views)))
        self.blocks = [Block(layer, (averaged,), widths[layer]) for layer in stage_ends(list(widths))]
        self.projection = Projection(sum(block.width for block in self.blocks))
        self.mixture = GaussianMixture(self.n_components, self.projection.width, self.covariance_type)
        return self

    def points(self, outputs: Outputs) -> Tensor:
        """What the mixture models: (N, sum D), projected where that is wide."""
        result: Tensor = self.projection(self.parts(outputs))
        return result

    def parts(self, outputs: Outputs) -> Tensor:
        """Features of all layers, each of unit norm, averaged over views: (N, sum D)."""
        chosen = [outputs.features[layer][:, : self.n_views] for layer, *_ in self.blocks]
        return torch.cat([unit(features).mean(1) for features in chosen], dim=1)

    def fit(self, outputs: Outputs, fitter: Fitter) -> Self:
        """See `Score`."""
        self.projection.fit(in_chunks(self.parts, outputs))
        points = in_chunks(self.points, outputs)
        self.mixture = sized(self.mixture, points)
        fitter(self.mixture, points)
        return self

    def forward(self, outputs: Outputs) -> Tensor:
        """(N,), in nats."""
        result: Tensor = self.mixture(self.points(outputs))
        return result

    def models(self) -> dict[str, FeatureMixture]:
        """See `Score`."""
        return {self.name: FeatureMixture(self.mixture, self.parts, self.blocks, self.projection)}
