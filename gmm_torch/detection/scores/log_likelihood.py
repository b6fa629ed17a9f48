"""The paper's score: log-likelihood of the features under a Gaussian mixture (Shao, Song, Ermon 2020)."""

from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.detection.feature_mixture import Block, FeatureMixture
from gmm_torch.detection.outputs import Outputs
from gmm_torch.detection.scores.base import Fitter, Score
from gmm_torch.detection.transforms import TRANSFORMS, check_transform
from gmm_torch.mixture import GaussianMixture


class LogLikelihood(Score):
    """Sum over the layers of log p(z_layer), one mixture a layer, jointly over all views.

    Args:
        n_components: K of each mixture.
        covariance_type: see `GaussianMixture`.
        transform: of the features before the mixture; see `gmm_torch.detection.transforms`.
    """

    name = "log_likelihood"

    def __init__(self, n_components: int = 30, covariance_type: str = "full", transform: str = "none") -> None:
        super().__init__()
        check_transform(transform)
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.transform = transform
        self.names: list[str] = []
        self.blocks: list[Block] = []
        self.mixtures = nn.ModuleList()

    def options(self) -> dict[str, Any]:
        """See `Score`."""
        keys = ("n_components", "covariance_type", "transform")
        return {key: getattr(self, key) for key in keys}

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        """See `Score`."""
        self.names = list(widths)
        self.blocks = [Block(layer, n_views, width) for layer, width in widths.items()]
        self.mixtures = nn.ModuleList(
            GaussianMixture(self.n_components, n_views * width, self.covariance_type) for width in widths.values()
        )
        return self

    def points(self, outputs: Outputs, layer: str) -> Tensor:
        """What the layer's mixture models: (N, V D)."""
        return TRANSFORMS[self.transform](outputs.features[layer]).flatten(1)

    def fit(self, outputs: Outputs, fitter: Fitter) -> Self:
        """See `Score`."""
        for layer, mixture in zip(self.names, self.mixtures, strict=True):
            fitter(mixture, self.points(outputs, layer))  # type: ignore[arg-type]
        return self

    def forward(self, outputs: Outputs) -> Tensor:
        """(N,), in nats."""
        pairs = zip(self.names, self.mixtures, strict=True)
        return torch.stack([mixture(self.points(outputs, layer)) for layer, mixture in pairs]).sum(0)

    def models(self) -> dict[str, FeatureMixture]:
        """See `Score`; one a layer."""
        pairs = zip(self.blocks, self.mixtures, strict=True)
        return {
            block.layer: FeatureMixture(mixture, partial(self.points, layer=block.layer), [block])  # type: ignore[arg-type]
            for block, mixture in pairs
        }
