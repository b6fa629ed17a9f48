"""How certain the classifier is under test-time augmentations, given how certain it is of the input itself."""

from typing import Self

import torch
from torch import Tensor

from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.scores.conditional_consistency import ConditionalConsistency


class AugmentationConsistency(ConditionalConsistency):
    """log P(D <= d | S = s): d the mean log-odds of the predicted class in the other views, s those of the input.

    A perturbation that was made for an image does not survive its mirror: the classifier is sure of the one and not of
    the other.
    """

    name = "augmentation_consistency"
    reads_features = False
    default_weights = (1 / 16, 0.0)
    views = ("identity", "mirror", "blur")

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        """See `Score`.

        Raises:
            ValueError: no view but the input itself, or fewer than two classes.
        """
        if n_views < 2 or n_classes < 2:
            raise ValueError(
                f"{self.name}: expected at least 2 views and 2 classes; got {n_views} and {n_classes}: take another "
                "score"
            )
        return super().build(widths, n_views, n_classes)

    def odds(self, outputs: Outputs) -> Tensor:
        """See `ConditionalConsistency`."""
        each = outputs.log_odds()
        return torch.stack([each[:, 0], each[:, 1:].mean(1)], dim=1)
