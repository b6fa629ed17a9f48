"""The objective that an adaptive attack maximises."""

from typing import ClassVar

import torch
from torch import Tensor

from trainers.attacks.adaptive.threat_model import Observation, ThreatModel


class Objective:
    """A quantity that rises as an image comes nearer to being wrong and accepted."""

    uses_score: ClassVar[bool] = True  # whether it follows the gradient of the detector's score

    def goals(self, threat: ThreatModel, restart: int) -> Tensor:
        """What each image aims at in this restart, (N,) int64; what the number means is the objective's own."""
        return torch.full_like(threat.labels, restart)

    def gradient(
        self, threat: ThreatModel, x: Tensor, observation: Observation, labels: Tensor, goals: Tensor
    ) -> Tensor:
        """Direction to step along from x, (n, C, H, W), a leaf of its observation's graph; labels are true classes."""
        (found,) = torch.autograd.grad(self.value(threat, observation, labels, goals).sum(), x)
        return found

    def value(self, threat: ThreatModel, observation: Observation, labels: Tensor, goals: Tensor) -> Tensor:
        """(n,)."""
        raise NotImplementedError


def lead(logits: Tensor, classes: Tensor) -> Tensor:
    """z_c - max_{j != c} z_j, (n,), for logits (n, C) and classes c (n,): positive where c wins."""
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, classes[:, None], True)
    rival = logits.masked_fill(chosen, -torch.inf).amax(1)
    return logits.gather(1, classes[:, None])[:, 0] - rival


def likeliest_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """The classes other than the label, (n, C - 1) int64, the most probable first."""
    order = logits.argsort(dim=1, descending=True)
    return order[order != labels[:, None]].reshape(len(logits), -1)
