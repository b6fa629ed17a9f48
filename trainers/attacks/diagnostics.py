"""Diagnostics: when the result of an attack says little about the classifier's robustness.

Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", 2020, and the checks of their AutoAttack; Carlini et al., "On evaluating adversarial robustness", 2019.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.attacks.result import AttackResult

ZERO_GRADIENT_LIMIT = 0.01
"""Share of images with a zero gradient above which an attack is warned about; also for tiny ones."""

VANISHING_NORM = 1e-12
"""Euclidean norm of a gradient below which attacks that divide by it stand still."""

RANDOM_TOLERANCE = 1e-4
"""Change of an image's logits between two passes, relative to their norm, above which they are called random."""

HUGE_SUCCESS_LIMIT = 0.5
"""Share of successes at a huge budget below which an attack is warned about."""

BLACK_BOX_LIMIT = 0.02
"""Share of images that only black-box attacks change above which the others are warned about."""


class AttackWarning(UserWarning):
    """The result of an attack can't be trusted to show how robust the classifier is."""


class GradientDiagnostics(NamedTuple):
    """What keeps gradients from helping an attack, image by image: (N,) bool each, on the CPU."""

    zero: Tensor  # where the gradient of the cross entropy by the image is exactly zero
    vanishing: Tensor  # where it is not, but its norm is below `VANISHING_NORM`
    non_finite: Tensor  # where it is infinite or NaN, or the logits are
    random: Tensor  # where two passes give different logits

    @staticmethod
    def cat(parts: Sequence["GradientDiagnostics"]) -> "GradientDiagnostics":
        """Several batches, one after another; none gives an empty one."""
        if not parts:
            return GradientDiagnostics(*[torch.zeros(0, dtype=torch.bool)] * 4)
        return GradientDiagnostics(*map(torch.cat, zip(*parts, strict=True)))


def diagnose_gradients(classifier: nn.Module, images: Tensor, labels: Tensor) -> GradientDiagnostics:
    """Check the gradients of the cross entropy, and whether two passes give the same logits."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = classifier(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradient = torch.zeros_like(images)
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, images)
    with torch.no_grad():
        again = classifier(images)
        change = (again - logits).norm(dim=1) / logits.norm(dim=1).clamp_min(torch.finfo(logits.dtype).tiny)
        gradient = gradient.flatten(1)
        finite = gradient.isfinite().all(dim=1) & logits.isfinite().all(dim=1)
        zero = (gradient == 0).all(dim=1)
        vanishing = finite & ~zero & (gradient.double().norm(dim=1) < VANISHING_NORM)
        random = finite & (change > RANDOM_TOLERANCE)
    return GradientDiagnostics(*(found.cpu() for found in (zero, vanishing, ~finite, random)))


def check_differentiable(name: str, classifier: nn.Module, images: Tensor) -> None:
    """Raise ValueError, in the attack's name, unless gradients reach the images, (N, C, H, W), from the logits."""
    with torch.enable_grad():
        if not classifier(images.detach().requires_grad_()).requires_grad:
            raise ValueError(
                f"attack {name}: expected a gradient to follow; got none, for no gradient reaches the image through "
                "this classifier (detach or no_grad in its forward?): take an attack that needs none, as hop_skip_jump"
            )


def huge_budget(norm: str, n_pixels: int) -> float:
    """The distance within which every image of so many values can be made plain grey, whatever it shows."""
    return {"linf": 0.5, "l2": 0.5 * math.sqrt(n_pixels), "l1": 0.5 * n_pixels}[norm]


def result_diagnostics(result: AttackResult) -> list[str]:
    """Reasons not to trust a result, each a sentence without its full stop; none is no proof that it can be trusted."""
    if result.n_attacked == 0:
        return ["the classifier gets no image right, so there was nothing to attack"]
    found = []
    if result.non_finite_gradient_share > 0:
        found.append(
            f"logits or gradients are infinite or NaN at {result.non_finite_gradient_share:.1%} of the attacked "
            "images, where the attack can't know what it does"
        )
    if result.random_share > 0:
        found.append(
            f"two passes over the same image give different logits at {result.random_share:.1%} of the attacked images "
            "(dropout left on? a random defence?): a success may not repeat, and one gradient is a noisy one; "
            "attack the average of many passes"
        )
    if not result.black_box:
        found += _gradient_diagnostics(result)
    if result.n_success == 0:
        found.append(
            f"no success on {result.n_attacked} images; raise epsilon or the number of steps, or check that gradients "
            "reach the image"
        )
    return found


def _gradient_diagnostics(result: AttackResult) -> list[str]:
    found = []
    if result.zero_gradient_share > ZERO_GRADIENT_LIMIT:
        found.append(
            f"the gradient is exactly zero at {result.zero_gradient_share:.1%} of the attacked images "
            "(saturated logits? rounding?), so a failed attack there is no sign of robustness"
        )
    if result.vanishing_gradient_share > ZERO_GRADIENT_LIMIT:
        found.append(
            f"the gradient nearly vanishes (norm below {VANISHING_NORM:g}) at {result.vanishing_gradient_share:.1%} of "
            "the attacked images (saturated logits?), so a failed attack there is no sign of robustness"
        )
    huge = result.huge_success_rate
    if huge is not None and huge < HUGE_SUCCESS_LIMIT:
        found.append(
            f"only {huge:.1%} of a few images change class at a budget of {result.huge_epsilon:.3g}, within which "
            "every image can be made plain grey: the gradients mislead the attack, or the classifier puts nearly "
            "everything into one class; its failures are no sign of robustness"
        )
    if result.epsilon is None and 0 < result.success_rate < HUGE_SUCCESS_LIMIT:
        found.append(
            f"only {result.success_rate:.1%} of the images change class although there is no budget: the gradients "
            "mislead the attack, or it needs more steps"
        )
    return found


def comparison_diagnostics(results: Iterable[AttackResult]) -> dict[str, list[str]]:
    """Warn of gradient attacks that a black-box attack of the same norm and budget beats.

    Budgets are compared image by image, over those that all of them attacked; attacks that minimise a norm by their
    median perturbation. Additive noise counts as a black-box attack, too.

    Returns:
        name -> sentences like those of `result_diagnostics`, for the gradient attack that did best.
    """
    groups: dict[tuple[str, float | None], list[AttackResult]] = defaultdict(list)
    for result in results:
        groups[result.norm, result.epsilon].append(result)
    found: dict[str, list[str]] = {}
    for group in groups.values():
        black = [result for result in group if result.black_box and result.n_success]
        white = [result for result in group if not result.black_box and result.n_attacked]
        if black and white:
            best = max(white, key=lambda result: result.success_rate)
            sentences = [text for each in black if (text := _beaten(white, each))]
            if sentences:
                found[best.name] = sentences
    return found


def _beaten(white: Sequence[AttackResult], black: AttackResult) -> str | None:
    both = set(black.attacked.tolist()).intersection(*(each.attacked.tolist() for each in white))
    fallen = {index for each in white for index in each.index.tolist()}
    only = len((set(black.index.tolist()) & both) - fallen)
    if only > max(1, BLACK_BOX_LIMIT * len(both)):
        budget = "" if black.epsilon is None else f" within the same budget, {black.epsilon:.3g} in {black.norm}"
        return (
            f"the black-box attack {black.name} changes the class of {only} of {len(both)} images that no attack by "
            f"gradients changes{budget}: the gradients mislead them"
        )
    medians = [value for each in white if (value := each.median_norm) is not None]
    median = black.median_norm
    if black.epsilon is None and medians and median and median < (1 - BLACK_BOX_LIMIT) * min(medians):
        return (
            f"the black-box attack {black.name} finds smaller perturbations (median {median:.3g} in "
            f"{black.norm}) than the attacks by gradients ({min(medians):.3g}): the gradients mislead them"
        )
    return None


def warn(name: str, sentences: Iterable[str]) -> None:
    """Issue an `AttackWarning` for each sentence."""
    for text in sentences:
        warnings.warn(f"attack {name}: {text}", AttackWarning, stacklevel=3)
