"""Log-likelihood of the directions of pooled features of several stages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.features.layers import STAGES, stage_ends
from gmm_torch.features.transforms import unit
from gmm_torch.scores.base import N_COMPONENTS
from gmm_torch.scores.feature_mixture import Block
from gmm_torch.scores.joint_likelihood import JointLikelihood


class MomentLikelihood(JointLikelihood):
    """One mixture over z = (f_1, f_2, ...) of all layers, each of unit norm: (N, sum D).

    f holds the means of a layer's maps over space and their standard deviations. Early stages see texture, late ones
    content; the deviation tells a map that fires in one place from one that glows everywhere. The mixture is joint over
    layers, so it learns how they go together in clean images. Of layers that are found as "depths" it takes the ends of
    stages.

    Args:
        n_components, covariance_type: see `JointLikelihood`.
        n_views: number of views, from the first, that z is averaged over; fewer where there are fewer. Directions that
            differ between image and mirror shorten the mean, which shows noise that looks typical in each.
    """

    name = "moment_likelihood"
    in_words = "the features of the layers"
    default_weights = (1 / 4, 1 / 4)
    layers = STAGES
    pooling = "moments"

    def __init__(self, n_components: int = N_COMPONENTS, covariance_type: str = "full", n_views: int = 2) -> None:
        super().__init__(n_components, covariance_type)
        self.n_views = n_views

    def reads(self, layers: Sequence[str], n_views: int) -> dict[str, int]:
        return dict.fromkeys(stage_ends(layers), min(self.n_views, n_views))

    def make_blocks(self, widths: dict[str, int], n_views: int, n_classes: int) -> Sequence[Block]:
        averaged = tuple(range(min(self.n_views, n_views)))
        return [Block(layer, (averaged,), widths[layer]) for layer in stage_ends(list(widths))]

    def features(self, outputs: Features) -> Tensor:
        """Features of all layers, each of unit norm, averaged over views: (N, sum D)."""
        chosen = [outputs.layers[layer][:, : self.n_views] for layer, *_ in self.blocks]
        return torch.cat([unit(features).mean(1) for features in chosen], dim=1)
