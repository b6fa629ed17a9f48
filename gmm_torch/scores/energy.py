"""Minus the free energy of the logits (Liu et al. 2020)."""

from typing import Self

from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.base import Fitter, Score

ZERO = 1e-4  # what rounding leaves of an energy of zero


class NegativeEnergy(Score):
    """log sum_c exp(logit_c)."""

    name = "negative_energy"

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        """Nothing to learn; raises ValueError for log-probabilities."""
        if bool((self(outputs).abs() < ZERO).all()):
            raise ValueError(
                "negative_energy: expected logits; got log-probabilities, whose energy is zero for every input: leave "
                "the log_softmax out, or take another score"
            )
        return self

    def forward(self, outputs: Features) -> Tensor:
        """(N,)."""
        return outputs.own_logits.logsumexp(-1)
