"""Mean Teacher.

Source: Tarvainen, Valpola, "Mean teachers are better role models: weight-averaged consistency targets improve
semi-supervised deep learning results", NeurIPS 2017.
"""

import math
from typing import Any

import torch
from torch import Tensor

from trainers.modules.averaged_module import AveragedClassifierModule


def sigmoid_ramp_up(step: int, length: float) -> float:
    """exp(-5 (1 - t)^2) with t = min(step / length, 1): from 0.007 to 1 along half of a sigmoid; 1 for length 0.

    Source: Laine, Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017, section 2.
    """
    progress = 1.0 if step >= length else step / length
    return math.exp(-5 * (1 - progress) ** 2)


def consistency_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared distance of two predictions, mean over images: section 2, J = E ||f(x, w', n') - f(x, w, n)||^2.

    f is the softmax. (The paper's code divides J by the number of classes.)

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C), a constant target.

    Returns:
        (), in [0, 2].
    """
    difference = student_logits.softmax(dim=1) - teacher_logits.detach().softmax(dim=1)
    return difference.square().sum(dim=1).mean()


class MeanTeacher(AveragedClassifierModule):
    """Cross entropy of labelled images, and the distance to the predictions of the student's own moving average.

    The loss is CE + weight * r(t) * J: J of unlabelled images, of which student and teacher see a view each, with
    noise of its own; r rises from 0.007 to 1. Logs `train/consistency`, J, too.

    Takes batches {"labelled": (images, labels), "unlabelled": (images, the same images seen anew)}.

    Args:
        *args, **options: of `AveragedClassifierModule`; the average is the teacher.
        weight: of J, 0 or more.
        ramp_up: share of the training's steps, in [0, 1], over which that weight rises.
        noise: standard deviation of the Gaussian noise on unlabelled images, in pixel values of [0, 1].

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self, *args: Any, weight: float = 10.0, ramp_up: float = 0.25, noise: float = 0.05, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        if weight < 0 or noise < 0:
            raise ValueError(f"weight and noise: expected numbers >= 0; got {weight} and {noise}")
        if not 0 <= ramp_up <= 1:
            raise ValueError(f"ramp_up: expected a share of the steps in [0, 1]; got {ramp_up}")
        self.weight = weight
        self.ramp_up = ramp_up
        self.noise = noise
        self._ramp_steps = 0.0

    def on_fit_start(self) -> None:
        """Learn how long the training is.

        Raises:
            ValueError: if it has no end.
        """
        self._ramp_steps = self.ramp_up * self.total_steps("ramp_up")

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch."""
        images, labels = batch["labelled"]
        of_student, of_teacher = batch["unlabelled"]
        logits = self.student_classifier(torch.cat([images, self._noisy(of_student)]))
        labelled, unlabelled = logits.split([len(images), len(of_student)])
        # The teacher is in training mode like the student: with running statistics in one and the batch's in the other,
        # they would differ by more than weights and noise.
        with torch.no_grad():
            target = self.classifier(self._noisy(of_teacher))
        consistency = consistency_loss(unlabelled, target)
        self.log("train/consistency", consistency.detach())
        weight = self.weight * sigmoid_ramp_up(self.trainer.global_step, self._ramp_steps)
        return self.supervised_loss(labelled, labels) + weight * consistency

    def _noisy(self, images: Tensor) -> Tensor:
        return images + self.noise * torch.randn_like(images)
