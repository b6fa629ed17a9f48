"""The classifier's own certainty: minus the entropy of its softmax."""

from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.base import Score


class NegativeEntropy(Score):
    """sum_c p_c log p_c in nats, at most 0."""

    name = "negative_entropy"

    def forward(self, outputs: Features) -> Tensor:
        """(N,)."""
        log_p = outputs.own_logits.log_softmax(-1)
        return (log_p.exp() * log_p).sum(-1)
