"""Objective: a targeted attack on the guarded classifier."""

import torch
from torch import Tensor

from trainers.attacks.adaptive.guarded import guarded_logits
from trainers.attacks.adaptive.objective import Objective, lead, likeliest_wrong
from trainers.attacks.adaptive.threat_model import Observation, ThreatModel


class Targeted(Objective):
    """z_t - max_{j != t} z_j over the logits of `Guarded`, t a wrong real class, in restart r the r-th most probable.

    The difference of logits never saturates, unlike the cross entropy (Carlini and Wagner 2017, "Towards evaluating the
    robustness of neural networks", section V). The last logit counts once t leads the others: before, it would draw an
    image that is refused back into its own class.
    """

    def goals(self, threat: ThreatModel, restart: int) -> Tensor:
        """Target classes."""
        classes = likeliest_wrong(threat.outputs.own_logits, threat.labels)
        return classes[:, restart % classes.shape[1]]

    def value(self, threat: ThreatModel, observation: Observation, labels: Tensor, goals: Tensor) -> Tensor:
        """See `Objective`."""
        hit = observation.verdict.prediction == goals
        return torch.where(hit, lead(guarded_logits(observation), goals), lead(observation.logits, goals))
