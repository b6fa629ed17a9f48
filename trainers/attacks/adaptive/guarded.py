"""Classifier and detector as one classifier with a class "refused"."""

import torch
from torch import Tensor, nn

from gmm_torch.detector import FailureDetector
from trainers.attacks.adaptive.threat_model import Observation, observe

LIMIT = 1e6  # of margins in units: a detector that accepts everything has none


class Guarded(nn.Module):
    """Logits (N, C + 1): those of the classifier, and one of class C, "refused".

    The last is max_c z_c - m, m the margin to the detector's threshold: it is the largest exactly where the detector
    refuses. So attacks on classifiers attack the pair. They must be targeted at real classes: class C is no success
    (Carlini and Wagner 2017, "Adversarial examples are not easily detected", section 4; Bryniarski et al. 2021,
    "Evading adversarial example detection defenses with orthogonal projected gradient descent", section 3).

    Args:
        detector: fitted and calibrated; any of its scores that has a gradient.
    """

    def __init__(self, detector: FailureDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Tensor:
        """Of images (n, ...); argmax is C exactly where the detector refuses, else the classifier's class."""
        return guarded_logits(observe(self.detector, x))


def guarded_logits(observation: Observation) -> Tensor:
    """`Guarded`, from what was already seen: (n, C + 1)."""
    own = observation.logits
    largest = own.amax(-1)
    refused = largest - torch.nan_to_num(observation.margin, nan=-LIMIT).clamp(-LIMIT, LIMIT)
    # Rounding must not decide: the last logit lies on the verdict's side of the largest.
    infinity = torch.full_like(largest, torch.inf)
    above, below = torch.nextafter(largest, infinity), torch.nextafter(largest, -infinity)
    sided = torch.where(observation.verdict.accept, refused.minimum(below), refused.maximum(above))
    refused = sided.detach() + (refused - refused.detach())
    return torch.cat([own, refused[:, None]], dim=-1)
