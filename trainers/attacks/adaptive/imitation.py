"""Objective: imitate the features of a clean image of another class."""

import torch
from torch import Tensor

from gmm_torch.detector import Features
from trainers.attacks.adaptive.objective import Objective
from trainers.attacks.adaptive.threat_model import Observation, ThreatModel

FLOOR = 1e-3  # smallest deviation of a feature, relative to the largest of its layer


class Imitation(Objective):
    """-mean squared difference to the features of an accepted clean image that is classified otherwise.

    The features are those of all layers and views, and the logits of all views, each in units of its deviation over
    the images to imitate; layers and logits count the same. Restart r imitates the nearest image of the r-th nearest
    class (Sabour et al. 2016, "Adversarial manipulation of deep representations"). It needs no gradient of the score.
    """

    uses_score = False

    def goals(self, threat: ThreatModel, restart: int) -> Tensor:
        """Positions among the images to imitate; ValueError where for some image there is none of another class."""
        distance = torch.cdist(self.points(threat, threat.outputs), self.points(threat, threat.others))  # (N, M)
        predicted = threat.others.own_logits.argmax(1)
        best, position = [], []
        for c in predicted.unique():
            members = (predicted == c).nonzero()[:, 0]
            nearest = distance[:, members].min(1)
            best.append(nearest.values.masked_fill(threat.labels == c, torch.inf))
            position.append(members[nearest.indices])
        order = torch.stack(best, 1).argsort(1)
        n_classes = torch.stack(best, 1).isfinite().sum(1)
        if not bool((n_classes > 0).all()):
            raise ValueError(
                "imitation: expected accepted clean images of other classes to imitate; got none: give more"
            )
        chosen = order.gather(1, (restart % n_classes)[:, None])
        return torch.stack(position, 1).gather(1, chosen)[:, 0]

    def value(self, threat: ThreatModel, observation: Observation, labels: Tensor, goals: Tensor) -> Tensor:
        """See `Objective`."""
        return -(self.points(threat, observation.outputs) - self.points(threat, threat.others)[goals]).square().sum(1)

    def points(self, threat: ThreatModel, outputs: Features) -> Tensor:
        """Features whose squared distances are the objective, (n, sum of all widths)."""
        parts = []
        for value, reference in zip(_blocks(outputs), _blocks(threat.others), strict=True):
            deviation = reference.std(0, correction=0)
            floor = (FLOOR * deviation.max()).clamp_min(torch.finfo(deviation.dtype).tiny ** 0.5)
            parts.append(value / deviation.clamp_min(floor) / value.shape[1] ** 0.5)
        return torch.cat(parts, dim=1)


def _blocks(outputs: Features) -> list[Tensor]:
    """Logits and features of all views, each (n, V D)."""
    return [outputs.logits.flatten(1), *(value.flatten(1) for value in outputs.layers.values())]
