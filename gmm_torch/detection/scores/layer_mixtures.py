"""Base of the scores with one mixture for each layer."""

from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.mixtures.feature_mixture import Block, FeatureMixture, each_view, sized
from gmm_torch.detection.mixtures.transforms import TRANSFORMS, check_transform
from gmm_torch.detection.scores.base import N_COMPONENTS, Fitter, Score
from gmm_torch.functional.checks import check_count
from gmm_torch.mixture import GaussianMixture


class LayerMixtures(Score):
    """One mixture for each layer, over its features in all views jointly. No score by itself.

    Args:
        n_components: the largest K of each mixture; fewer where there are fewer than twenty fitting inputs for each.
        covariance_type: see `GaussianMixture`.
        transform: of the features before the mixture, fitted before it; see `gmm_torch.detection.mixtures.transforms`.
    """

    def __init__(
        self, n_components: int = N_COMPONENTS, covariance_type: str = "full", transform: str = "none"
    ) -> None:
        super().__init__()
        check_transform(transform)
        check_count("n_components", n_components)
        GaussianMixture(1, 1, covariance_type)  # raises where there is no such type: not only at `fit`
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.transform = transform
        self.names: list[str] = []
        self.blocks: list[Block] = []
        self.transforms = nn.ModuleList()
        self.mixtures = nn.ModuleList()

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        """See `Score`."""
        made = TRANSFORMS[self.transform]
        self.names = list(widths)
        named = {layer: f"{layer} {self.transform}" if made.mixes else layer for layer in widths}
        self.blocks = [Block(named[layer], each_view(n_views), width) for layer, width in widths.items()]
        self.transforms = nn.ModuleList(made(width) for width in widths.values())
        self.mixtures = nn.ModuleList(self.make_mixture(n_views * width, n_classes) for width in widths.values())
        return self

    def make_mixture(self, n_features: int, n_classes: int) -> GaussianMixture:
        """An empty mixture of a layer."""
        return GaussianMixture(self.n_components, n_features, self.covariance_type)

    def points(self, outputs: Outputs, layer: str) -> Tensor:
        """What the layer's mixture models: (N, V D)."""
        transform = self.transforms[self.names.index(layer)]
        result: Tensor = transform(outputs.features[layer]).flatten(1)
        return result

    def fit(self, outputs: Outputs, fitter: Fitter) -> Self:
        """See `Score`."""
        for layer, transform in zip(self.names, self.transforms, strict=True):
            transform.fit(outputs.features[layer].flatten(0, 1))  # type: ignore[operator]
        for i, layer in enumerate(self.names):
            self.mixtures[i] = self.fit_mixture(self.mixtures[i], self.points(outputs, layer), outputs, fitter)  # type: ignore[arg-type]
        return self

    def fit_mixture(
        self, mixture: GaussianMixture, points: Tensor, outputs: Outputs, fitter: Fitter
    ) -> GaussianMixture:
        """The mixture of a layer, fitted to its points (N, V D)."""
        mixture = sized(mixture, points)
        fitter(mixture, points)
        return mixture

    def log_joints(self, outputs: Outputs) -> list[Tensor]:
        """log w_k + log N(z | k) of each layer, each (N, K)."""
        pairs = zip(self.names, self.mixtures, strict=True)
        return [mixture.log_joint(self.points(outputs, layer)) for layer, mixture in pairs]  # type: ignore[operator]

    def log_probs(self, outputs: Outputs) -> Tensor:
        """log p(z) of each layer, (N, L)."""
        pairs = zip(self.names, self.mixtures, strict=True)
        return torch.stack([mixture(self.points(outputs, layer)) for layer, mixture in pairs], dim=1)

    def models(self) -> dict[str, FeatureMixture]:
        """See `Score`; one a layer."""
        triples = zip(self.names, self.blocks, self.mixtures, strict=True)
        return {
            layer: FeatureMixture(mixture, partial(self.points, layer=layer), [block])  # type: ignore[arg-type]
            for layer, block, mixture in triples
        }
