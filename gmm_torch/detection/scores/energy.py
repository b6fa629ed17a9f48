"""Minus the free energy of the logits (Liu et al. 2020)."""

from torch import Tensor

from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.scores.base import Score


class NegativeEnergy(Score):
    """log sum_c exp(logit_c)."""

    name = "negative_energy"

    def forward(self, outputs: Outputs) -> Tensor:
        """(N,)."""
        return outputs.own_logits.logsumexp(-1)
