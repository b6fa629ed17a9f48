"""Log-likelihood of the directions of means and deviations of several stages, averaged over views."""

from typing import Any, Self

import torch
from torch import Tensor

from gmm_torch.detection.feature_mixture import Block, FeatureMixture, sized
from gmm_torch.detection.layers import STAGES, stage_ends
from gmm_torch.detection.outputs import Outputs
from gmm_torch.detection.projection import Projection
from gmm_torch.detection.scores.base import Fitter, Score
from gmm_torch.detection.transforms import unit
from gmm_torch.mixture import GaussianMixture


class MomentLikelihood(Score):
    """One mixture over z = (m_1, d_1, m_2, d_2, ...) of all layers, each part of unit norm, averaged over some views.

    m is the mean and d the standard deviation of a layer's maps over space. Early stages see texture, late ones
    content; the deviation tells a map that fires in one place from one that glows everywhere. The mixture is joint
    over layers, so it learns how they go together in clean images. Over views that leave the content as it is the mean
    has less noise than each of them and no more coordinates than one. Of layers that are found as "depths" it takes
    the ends of stages.

    Args:
        n_components: the largest K; fewer where there are fewer than twenty fitting inputs for each.
        covariance_type: see `GaussianMixture`.
        n_views: how many of the views, from the first, are averaged; fewer where there are fewer.
    """

    name = "moment_likelihood"
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
        """Means and deviations of all layers, each of unit norm, averaged over views: (N, sum D)."""
        parts = []
        for layer, *_ in self.blocks:
            parts.append(unit(outputs.parts(layer, self.n_views)).mean(1).flatten(1))
        return torch.cat(parts, dim=1)

    def fit(self, outputs: Outputs, fitter: Fitter) -> Self:
        """See `Score`."""
        self.projection.fit(self.parts(outputs))
        points = self.points(outputs)
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
