"""Objective: joint loss of classifier and detector."""

import torch
from torch import Tensor

from gmm_torch.checks import check_choice
from trainers.attacks.adaptive.objective import Objective, lead
from trainers.attacks.adaptive.threat_model import Observation, ThreatModel

PROJECTIONS = ("none", "selective", "orthogonal")
WEIGHTS = (0.0, 1.0, 10.0, 0.1)


class Joint(Objective):
    """m_c + w m_d: m_c the lead of the best wrong class in logits, m_d the margin to the detector's threshold.

    m_d counts only once m_c > 0: before, it would draw the image back into its own class, whose typical member it is.

    Args:
        projection: "none" takes the sum, with another weight w each restart, 0 first; "selective" follows m_c until the
            image is wrong, then m_d; "orthogonal" does so too, and takes the gradient of m_c out of that of m_d, so
            that the second does not undo what the first has gained (both after Bryniarski et al. 2021, "Evading
            adversarial example detection defenses with orthogonal projected gradient descent").

    Raises:
        ValueError: another projection.
    """

    def __init__(self, projection: str = "none") -> None:
        check_choice("projection", projection, PROJECTIONS)
        self.projection = projection

    def gradient(
        self, threat: ThreatModel, x: Tensor, observation: Observation, labels: Tensor, goals: Tensor
    ) -> Tensor:
        """See `Objective`."""
        wrong = -lead(observation.logits, labels)
        typical = observation.margin
        if self.projection == "none":
            weight = typical.new_tensor(WEIGHTS)[goals % len(WEIGHTS)]
            (found,) = torch.autograd.grad((wrong + weight * typical * (wrong > 0)).sum(), x)
            return found
        (class_part,) = torch.autograd.grad(wrong.sum(), x, retain_graph=True)
        (detector_part,) = torch.autograd.grad(typical.sum(), x)
        if self.projection == "orthogonal":
            detector_part = without(detector_part, class_part)
        return torch.where((wrong > 0)[:, None, None, None], detector_part, class_part)


def without(u: Tensor, v: Tensor) -> Tensor:
    """u less its projection onto v, item by item; u where v is zero."""
    product = (u * v).flatten(1).sum(1)
    square = v.square().flatten(1).sum(1)
    share = torch.where(square > 0, product / square.clamp_min(torch.finfo(v.dtype).tiny), 0)
    return u - share[:, None, None, None] * v
