"""The classifier's own certainty: minus the entropy of its softmax."""

from torch import Tensor

from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.scores.base import Score


class NegativeEntropy(Score):
    """sum_c p_c log p_c in nats, at most 0."""

    name = "negative_entropy"

    def forward(self, outputs: Outputs) -> Tensor:
        """(N,)."""
        log_p = outputs.own_logits.log_softmax(-1)
        return (log_p.exp() * log_p).sum(-1)
