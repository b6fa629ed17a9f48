"""Adversarial training of a classifier.

Source: Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards deep learning models resistant to adversarial attacks", 2018,
equation 2.1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.attacks.budget import parse_budget
from trainers.attacks.frozen import frozen
from trainers.modules.classifier_module import ClassifierModule


class AdversarialTraining(ClassifierModule):
    """Cross entropy on attacked images: each batch is attacked by PGD in the maximum norm before it is learned.

    The attack sees the classifier in evaluation mode, so that it moves no running statistics. Validation and the choice
    of the best epoch stay with clean images.

    Args:
        *args, **options: of `ClassifierModule`.
        epsilon: largest change of a pixel value in [0, 1], a number or a fraction such as "8/255".
        steps: of the attack, from a random start.
        step_size: of each, like `epsilon`.

    Raises:
        ValueError: a budget that is no number above 0 and at most 1, or no step.
    """

    def __init__(
        self,
        *args: Any,
        epsilon: float | str = "8/255",
        steps: int = 7,
        step_size: float | str = "2/255",
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if steps < 1:
            raise ValueError(f"adversarial training: steps: expected at least 1; got {steps}")
        self.epsilon = parse_budget("adversarial training: epsilon", epsilon, 1)
        self.step_size = parse_budget("adversarial training: step_size", step_size, 1)
        self.steps = steps

    def loss(self, batch: Any) -> Tensor:
        """Cross entropy, mean over a batch of images (N, C, H, W) in [0, 1] and labels (N,), after the attack."""
        images, labels = batch
        return self.supervised_loss(self(self.attacked(images, labels)), labels)

    def attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images within the budget, in [0, 1], on which the classifier does worse; (N, C, H, W)."""
        low, high = (images - self.epsilon).clamp_min(0), (images + self.epsilon).clamp_max(1)
        x = low + (high - low) * torch.rand_like(images)
        with frozen(self.classifier), torch.enable_grad():
            for _ in range(self.steps):
                x = x.detach().requires_grad_()
                loss = F.cross_entropy(self.classifier(x), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, x)
                x = (x.detach() + self.step_size * gradient.sign()).maximum(low).minimum(high)
        return x.detach()
