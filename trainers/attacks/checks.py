"""Guards: when the result of an attack says little about the classifier's robustness.

Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", 2020, and the checks of their AutoAttack.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.attacks.result import AttackResult

ZERO_GRADIENT_LIMIT = 0.01
"""Share of images with a zero gradient above which `warn_if_untrustworthy` warns."""


class AttackWarning(UserWarning):
    """The result of an attack can't be trusted to show how robust the classifier is."""


def has_zero_gradient(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Find the images at which a gradient attack does not know where to go.

    Args:
        classifier: images to logits.
        images: (N, C, H, W).
        labels: (N,).

    Returns:
        Boolean (N,), true where the gradient of the cross entropy by the image is exactly zero.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        loss = F.cross_entropy(classifier(images), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return (gradient == 0).flatten(1).all(dim=1)


def warn_if_untrustworthy(result: AttackResult) -> None:
    """Warn about an attack that had nothing to attack, saw no gradients, or never succeeded.

    Args:
        result: of one attack.
    """
    if result.n_attacked == 0:
        _warn(result.name, "the classifier gets no image right, so there was nothing to attack")
        return
    if result.zero_gradient_share > ZERO_GRADIENT_LIMIT:
        _warn(
            result.name,
            f"the gradient is exactly zero at {result.zero_gradient_share:.1%} of the attacked images "
            "(saturated logits?), so a failed attack there is no sign of robustness",
        )
    if result.n_success == 0:
        _warn(
            result.name,
            f"no success on {result.n_attacked} images; raise epsilon or the number of steps, "
            "or check that gradients reach the image",
        )


def _warn(name: str, text: str) -> None:
    warnings.warn(f"attack {name}: {text}", AttackWarning, stacklevel=4)
