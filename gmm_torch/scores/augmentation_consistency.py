"""Certainty of the classifier under test-time augmentations, given its certainty for the input itself."""

import torch
from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.conditional_consistency import ConditionalConsistency


class AugmentationConsistency(ConditionalConsistency):
    """log P(D <= d | S = s): d the mean log-odds of the predicted class in the other views, s those of the input.

    A perturbation that was made for an image does not survive its mirror: the classifier is sure of the one and not of
    the other.
    """

    name = "augmentation_consistency"
    in_words = "the agreement of its views"
    min_views = min_classes = 2
    reads_features = False
    default_weights = (1 / 16, 0.0)
    views = ("identity", "mirror", "blur")

    def odds(self, outputs: Features) -> Tensor:
        each = outputs.log_odds()
        return torch.stack([each[:, 0], each[:, 1:].mean(1)], dim=1)
