"""The baseline: the largest softmax probability (Hendrycks and Gimpel 2017)."""

from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.base import Score


class MaxSoftmax(Score):
    """max_c softmax(logits)_c, between 1 / C and 1."""

    name = "max_softmax"

    def forward(self, outputs: Features) -> Tensor:
        """(N,)."""
        return outputs.own_logits.softmax(-1).amax(-1)
