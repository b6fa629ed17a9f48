"""Virtual adversarial training.

Source: Miyato, Maeda, Koyama, Ishii, "Virtual adversarial training: a regularization method for supervised and
semi-supervised learning", IEEE TPAMI 2018.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.modules.classifier_module import ClassifierModule

Classifier = Callable[[Tensor], Tensor]


def kl_divergence(logits: Tensor, other_logits: Tensor) -> Tensor:
    """KL(p || q) in nats of two predictions, p of logits (N, C) and q of the others (N, C), mean over images: ()."""
    return F.kl_div(other_logits.log_softmax(dim=1), logits.log_softmax(dim=1), reduction="batchmean", log_target=True)


def virtual_adversarial_perturbation(
    model: Classifier, x: Tensor, logits: Tensor, *, xi: float = 0.1, eps: float = 2.0, iterations: int = 1
) -> Tensor:
    """The perturbation of a given norm that changes the prediction most, to second order: algorithm 1, equation 12.

    r = eps g / ||g||, g the gradient of KL(p(x) || p(x + xi d)) in the unit vector d, which starts at random and
    becomes g / ||g|| at each iteration: a power iteration towards the leading eigenvector of the divergence's Hessian.

    Args:
        model: images (N, C, H, W) to logits; its parameters get no gradient here.
        x: images, (N, C, H, W).
        logits: what the model says of them, (N, number of classes).
        xi: L2 norm of the step over which the Hessian is taken, in the unit of x, positive.
        eps: L2 norm of the result, in the unit of x, 0 or more.
        iterations: of the power method, 1 or more.

    Returns:
        (N, C, H, W); zero for an image where the prediction does not change at all.
    """
    target = logits.detach()
    direction = _unit(torch.randn_like(x))
    for _ in range(iterations):
        direction.requires_grad_()
        with torch.enable_grad():
            divergence = kl_divergence(target, model(x.detach() + xi * direction))
        (gradient,) = torch.autograd.grad(divergence, direction)
        direction = _unit(gradient)
    return eps * direction


def vat_loss(model: Classifier, x: Tensor, logits: Tensor, **search: Any) -> Tensor:
    """Local distributional smoothness: equation 7, KL(p(x) || p(x + r)), p(x) a constant, mean over images.

    Args:
        model, x, logits, **search: see `virtual_adversarial_perturbation`, whose r is taken.

    Returns:
        (), in nats, 0 or more; differentiable in the model's parameters.
    """
    return kl_divergence(logits.detach(), model(x + virtual_adversarial_perturbation(model, x, logits, **search)))


def entropy(logits: Tensor) -> Tensor:
    """Entropy of predictions (N, C) in nats, mean over images: equation 21 (Grandvalet, Bengio 2005)."""
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()


@contextmanager
def constant_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation as they are while the body runs the module."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


class VAT(ClassifierModule):
    """Cross entropy of labelled images, and smoothness of the prediction around unlabelled ones.

    The loss is CE + weight * `vat_loss` + entropy_weight * `entropy`, the latter two of unlabelled images; an entropy
    weight of 1 is the paper's VAT+EntMin. Logs `train/smoothness`, the value of `vat_loss`, too.

    Takes batches {"labelled": (images, labels), "unlabelled": (images,)}.

    Args:
        *args, **options: of `ClassifierModule`.
        xi, eps, iterations: see `virtual_adversarial_perturbation`.
        weight: of the smoothness, 0 or more.
        entropy_weight: of the entropy, 0 or more.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        *args: Any,
        xi: float = 0.1,
        eps: float = 2.0,
        iterations: int = 1,
        weight: float = 1.0,
        entropy_weight: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if xi <= 0:
            raise ValueError(f"xi: expected a number > 0; got {xi}")
        if iterations < 1:
            raise ValueError(f"iterations: expected an integer >= 1; got {iterations}")
        for name, value in (("eps", eps), ("weight", weight), ("entropy_weight", entropy_weight)):
            if value < 0:
                raise ValueError(f"{name}: expected a number >= 0; got {value}")
        self.search: dict[str, Any] = {"xi": xi, "eps": eps, "iterations": iterations}
        self.weight = weight
        self.entropy_weight = entropy_weight

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch."""
        images, labels = batch["labelled"]
        (unlabelled,) = batch["unlabelled"]
        supervised = self.supervised_loss(self.classifier(images), labels)
        # Apart from the labelled images: with perturbed ones it must differ by the perturbation alone.
        logits = self.classifier(unlabelled)
        with constant_statistics(self.classifier):
            smoothness = vat_loss(self.classifier, unlabelled, logits, **self.search)
        self.log("train/smoothness", smoothness.detach())
        return supervised + self.weight * smoothness + self.entropy_weight * entropy(logits)


def _unit(x: Tensor) -> Tensor:
    """Every image of (N, ...) divided by its L2 norm; zero stays zero."""
    flat = x.flatten(1)
    # first by the largest value, whose square may be too small for float32
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return F.normalize(flat, dim=1).view_as(x).detach()
