"""DOCTOR: odds that the prediction is right, from the whole softmax (Granese et al. 2021)."""

import torch
from torch import Tensor

from gmm_torch.checks import check_choice
from gmm_torch.features.features import Features
from gmm_torch.features.log_odds import log_odds
from gmm_torch.scores.base import Score

VARIANTS = ("alpha", "beta")


class Doctor(Score):
    """Minus the logarithm of D, the odds that a prediction is wrong, in the softmax p of the logits over T.

    "alpha": D = (1 - g) / g, g = sum_c p_c^2, the probability that a label drawn from p is the one drawn again.
    "beta": D = (1 - max_c p_c) / max_c p_c, which at T = 1 has the order of the largest softmax probability.
    Granese et al. 2021, "DOCTOR: a simple method for detecting misclassification errors", without
    their perturbation of the input.

    Args:
        variant: "alpha" or "beta".
        temperature: T > 0.
    """

    name = "doctor"
    min_classes = 2

    def __init__(self, variant: str = "alpha", temperature: float = 1.0) -> None:
        super().__init__()
        check_choice("variant", variant, VARIANTS)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature: expected a number > 0; got {temperature}")
        self.variant = variant
        self.temperature = float(temperature)

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats."""
        logits = outputs.own_logits / self.temperature
        predicted = logits.argmax(-1)
        if self.variant == "beta":
            return log_odds(logits, predicted)
        log_p = logits.log_softmax(-1)
        # 1 - g without cancellation: with o = 1 - p_c for the predicted class c and r the softmax over the others,
        # it is o (1 + p_c - o sum r^2), and the bracket is at least 2 p_c.
        others = log_p.scatter(1, predicted[:, None], -torch.inf)
        log_o = others.logsumexp(-1)
        log_r_squared = (2 * (others - log_o[:, None])).logsumexp(-1)
        bracket = 1 + log_p.amax(-1).exp() - (log_o + log_r_squared).exp()
        return (2 * log_p).logsumexp(-1) - log_o - bracket.log()
