"""The paper's score, and the base of all scores with one mixture for each layer."""

from collections.abc import Iterator
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from gmm_torch.checks import check_choice, check_count
from gmm_torch.features.features import Features
from gmm_torch.features.transforms import TRANSFORMS
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores.base import N_COMPONENTS, Fitter, Score
from gmm_torch.scores.feature_mixture import Block, FeatureMixture, each_view, sized

_PAPERS_COMPONENTS = 30  # K of the paper


class LayerMixtures(Score):
    """One mixture for each layer, over its features in all views jointly. No score by itself.

    Args:
        n_components: the largest K of each mixture; fewer where there are fewer than twenty fitting inputs for each.
        covariance_type: see `GaussianMixture`.
        transform: of the features before the mixture, fitted before it; see `gmm_torch.features.transforms`.
    """

    def __init__(
        self, n_components: int = N_COMPONENTS, covariance_type: str = "full", transform: str = "none"
    ) -> None:
        super().__init__()
        check_choice("transform", transform, TRANSFORMS)
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
        made = TRANSFORMS[self.transform]
        self.names = list(widths)
        suffix = f" {self.transform}" if made.mixes else ""
        self.blocks = [Block(layer + suffix, each_view(n_views), width) for layer, width in widths.items()]
        self.transforms = nn.ModuleList(made(width) for width in widths.values())
        self.mixtures = nn.ModuleList(self.make_mixture(n_views * width, n_classes) for width in widths.values())
        return self

    def make_mixture(self, n_features: int, n_classes: int) -> GaussianMixture:
        """An empty mixture of a layer."""
        return GaussianMixture(self.n_components, n_features, self.covariance_type)

    def points(self, outputs: Features, layer: str) -> Tensor:
        """The points that the layer's mixture models, (N, V D)."""
        transform = self.transforms[self.names.index(layer)]
        result: Tensor = transform(outputs.layers[layer]).flatten(1)
        return result

    def with_points(self, mixtures: nn.ModuleList, outputs: Features) -> Iterator[tuple[GaussianMixture, Tensor]]:
        """Mixtures, one a layer, each with the points of its layer (N, V D)."""
        for layer, mixture in zip(self.names, mixtures, strict=True):
            yield mixture, self.points(outputs, layer)  # type: ignore[misc]

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        for layer, transform in zip(self.names, self.transforms, strict=True):
            transform.fit(outputs.layers[layer].flatten(0, 1))  # type: ignore[operator]
        for i, (mixture, points) in enumerate(self.with_points(self.mixtures, outputs)):
            self.mixtures[i] = self.fit_mixture(mixture, points, outputs, fitter)
        return self

    def fit_mixture(
        self, mixture: GaussianMixture, points: Tensor, outputs: Features, fitter: Fitter
    ) -> GaussianMixture:
        """The mixture of a layer, fitted to its points (N, V D)."""
        mixture = sized(mixture, points)
        fitter(mixture, points)
        return mixture

    def log_joints(self, outputs: Features) -> list[Tensor]:
        """log w_k + log N(z | k) of each layer, each (N, K)."""
        return [mixture.log_joint(points) for mixture, points in self.with_points(self.mixtures, outputs)]

    def models(self) -> dict[str, FeatureMixture]:
        """See `Score`; one a layer."""
        triples = zip(self.names, self.blocks, self.mixtures, strict=True)
        return {
            layer: FeatureMixture(mixture, partial(self.points, layer=layer), [block])  # type: ignore[arg-type]
            for layer, block, mixture in triples
        }


class LogLikelihood(LayerMixtures):
    """Sum over the layers of log p(z_layer), one mixture a layer, jointly over all views (Shao, Song, Ermon 2020).

    Args: those of `LayerMixtures`.
    """

    name = "log_likelihood"

    def __init__(
        self, n_components: int = _PAPERS_COMPONENTS, covariance_type: str = "full", transform: str = "none"
    ) -> None:
        super().__init__(n_components, covariance_type, transform)

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats."""
        return torch.stack([mixture(points) for mixture, points in self.with_points(self.mixtures, outputs)]).sum(0)
