"""FixMatch.

Source: Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.modules.averaged_module import AveragedClassifierModule


def fixmatch_loss(weak_logits: Tensor, strong_logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Cross entropy to confident pseudo-labels: equation 4, mean of 1[max q >= threshold] H(argmax q, p).

    q is the prediction for the weakly augmented image, a constant; p that for the strongly augmented one.

    Args:
        weak_logits, strong_logits: (N, C), of the same images.
        threshold: in [0, 1].

    Returns:
        the loss, (), mean over all N images, the unsure among them; which images are sure, (N,) bool.
    """
    confidence, pseudo_label = weak_logits.detach().softmax(dim=1).max(dim=1)
    sure = confidence >= threshold
    losses = F.cross_entropy(strong_logits, pseudo_label, reduction="none")
    return torch.where(sure, losses, 0.0).mean(), sure


class FixMatch(AveragedClassifierModule):
    """Cross entropy of labelled images, and of strongly augmented ones to what is sure of their weak augmentation.

    The loss is CE + weight * `fixmatch_loss`, of the student; the classifier that is validated and kept is its moving
    average. Logs `train/confident`, the share of unlabelled images above the threshold, too.

    Takes batches {"labelled": (images, labels), "unlabelled": (weak views, strong views)}.

    Args:
        *args, **options: of `AveragedClassifierModule`.
        threshold: of the confidence in a pseudo-label, in [0, 1].
        weight: of the unlabelled images' loss, 0 or more.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, *args: Any, threshold: float = 0.95, weight: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold: expected a probability in [0, 1]; got {threshold}")
        if weight < 0:
            raise ValueError(f"weight: expected a number >= 0; got {weight}")
        self.threshold = threshold
        self.weight = weight

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch."""
        images, labels = batch["labelled"]
        weak, strong = batch["unlabelled"]
        # One pass, so that batch normalisation has the same statistics for all three.
        logits = self.student_classifier(torch.cat([images, weak, strong]))
        labelled, of_weak, of_strong = logits.split([len(images), len(weak), len(strong)])
        unlabelled, sure = fixmatch_loss(of_weak, of_strong, self.threshold)
        self.log("train/confident", sure.float().mean())
        return self.supervised_loss(labelled, labels) + self.weight * unlabelled
