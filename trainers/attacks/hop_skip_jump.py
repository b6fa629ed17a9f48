"""HopSkipJump: an attack that observes nothing but the classifier's decisions."""

from typing import Any

import eagerpy
import foolbox
import torch
from foolbox.attacks import HopSkipJumpAttack
from torch import Tensor

from trainers.attacks.criterion import true_labels

_NOISES = 16  # images of noise among the starting points


class HopSkipJump(HopSkipJumpAttack):
    """HopSkipJump from the nearest image that the attacker has of another class.

    Source: Chen, Jordan, Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", 2020. foolbox starts
    from noise and stops where the noise is of the class of an image, as it is for some class of every classifier. Here
    an attack starts from the nearest of the other images of its batch and some uniform noise that are classified
    otherwise; an image for which there is none stays as it is. foolbox also divides the estimated directions by the
    norm of the whole batch, which shortens the steps as batches grow; here every image has its own.

    Args:
        steps: number of iterations.
        initial_gradient_eval_steps: decisions asked for to estimate the first direction; the t-th asks for sqrt(t)
            times as many.
        constraint: norm to minimise, "l2" or "linf"; for other options see foolbox's attack.
    """

    def run(self, model: foolbox.Model, inputs: Any, criterion: Any, **kwargs: Any) -> Any:
        """Attack images, (N, C, H, W) in [0, 1]."""
        wrapped, restore = eagerpy.astensor_(inputs)
        images, labels = wrapped.raw, true_labels(criterion)
        start, has_start = starting_points(model, images, labels)
        found = images.clone()
        if has_start.any():
            away = foolbox.Misclassification(labels[has_start])
            found[has_start] = super().run(model, images[has_start], away, starting_points=start[has_start], **kwargs)
        return restore(eagerpy.astensor(found))

    def approximate_gradients(self, *args: Any, **kwargs: Any) -> Any:
        """Directions towards the other side of the decision boundary, each of norm one."""
        direction = super().approximate_gradients(*args, **kwargs)
        norm = direction.raw.flatten(1).norm(dim=1).clamp_min(1e-12)
        return direction / eagerpy.astensor(norm.reshape(-1, *[1] * (direction.ndim - 1)))


def starting_points(model: foolbox.Model, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the nearest, among all of them and some noise, that is classified otherwise than it should be.

    Images are (N, C, H, W) in [0, 1]; the second result, (N,) bool, is false where there is none.
    """
    candidates = torch.cat([images, torch.rand_like(images[:1].expand(_NOISES, *images.shape[1:]))])
    prediction = model(candidates).argmax(dim=-1)
    distance = torch.cdist(images.flatten(1), candidates.flatten(1))
    distance = distance.masked_fill(prediction == labels[:, None], torch.inf)
    nearest, index = distance.min(dim=1)
    return candidates[index], nearest.isfinite()
