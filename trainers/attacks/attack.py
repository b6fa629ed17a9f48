"""One attack of foolbox at one perturbation budget."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from foolbox import PyTorchModel
from foolbox.attacks.base import AttackWithDistance, FixedEpsilonAttack, Repeated
from foolbox.distances import LpDistance
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainers.attacks.budget import parse_budget
from trainers.attacks.correct_images import CorrectImages, draw_correct, predict
from trainers.attacks.diagnostics import (
    GradientDiagnostics,
    check_differentiable,
    diagnose_gradients,
    huge_budget,
    result_diagnostics,
    warn,
)
from trainers.attacks.frozen import frozen
from trainers.attacks.result import AttackResult
from trainers.data.progress import with_progress

_TOLERANCE = 1e-4  # relative: adding a perturbation to an image and taking it off again rounds
_N_HUGE = 16  # images that a huge budget is tried on
_NORMS = {1: "l1", 2: "l2", float("inf"): "linf"}


class Attack:
    """An untargeted attack on a classifier in [0, 1] pixel space.

    Only images that the classifier gets right are attacked. A success is counted after the fact: the returned
    image, clamped to [0, 1], is classified again, and its distance to the clean image is measured.

    Args:
        name: what tables call it.
        method: a foolbox attack.
        epsilon: budget in the norm of `method`, in pixel values of [0, 1]: a number, or a fraction such as
            "8/255"; None lets a minimising attack find the smallest perturbation.
        n_images: number of images to attack, drawn at random; None for all that are classified rightly.
        batch_size: number of images attacked at once.
        black_box: whether `method` uses no gradients, so that diagnostics skip them.

    Raises:
        ValueError: if an argument is out of its range, or `method` needs a budget and there is none.
    """

    def __init__(
        self,
        name: str,
        method: AttackWithDistance,
        epsilon: float | str | None,
        n_images: int | None = 1000,
        batch_size: int = 100,
        black_box: bool = False,
    ) -> None:
        if not isinstance(method, AttackWithDistance):
            raise ValueError(f"attack {name}: method: expected a foolbox attack; got {type(method).__name__}")
        norm = _NORMS.get(method.distance.p) if isinstance(method.distance, LpDistance) else None
        if norm is None:
            raise ValueError(f"attack {name}: expected a method in the L1, L2 or Linf norm; got {method.distance}")
        if epsilon is None and isinstance(_single(method), FixedEpsilonAttack):
            raise ValueError(
                f"attack {name}: expected a budget for {type(method).__name__}; got none: set epsilon, to 8/255 say"
            )
        if n_images is not None and n_images < 1:
            raise ValueError(f"attack {name}: n_images: expected at least 1, or null for all; got {n_images}")
        if batch_size < 1:
            raise ValueError(f"attack {name}: batch_size: expected at least 1; got {batch_size}")
        self.name = name
        self.method = method
        self.norm = norm  # of the budget or of what is minimised
        largest = 1 if norm == "linf" else math.inf
        self.epsilon = None if epsilon is None else parse_budget(f"attack {name}: epsilon", epsilon, largest)
        self.n_images = n_images
        self.batch_size = batch_size
        self.black_box = black_box

    def limit(self, n_images: int) -> None:
        """Attack at most so many images."""
        self.n_images = min(self.n_images or n_images, n_images)

    def run(
        self, classifier: nn.Module, loader: DataLoader, device: torch.device | str = "cpu", seed: int = 0
    ) -> AttackResult:
        """Attack images of a data set.

        Args:
            classifier: images (N, C, H, W) in [0, 1] to logits (N, classes), its normalisation inside. It is
                moved to `device`; its modes and its parameters' `requires_grad` are restored afterwards.
            loader: gives batches of images and labels, in the order of its data set.
            seed: decides which images are attacked and what the attack draws. The global generators of torch
                are left as they were.

        Returns:
            The successes. Without any the result is empty, and an `AttackWarning` says so.

        Raises:
            ValueError: if the loader shuffles, its data set is empty, images are not in [0, 1], or the attack needs
                gradients and the classifier has none.
        """
        device = torch.device(device)
        with frozen(classifier.to(device)), _seeded(seed, device), _quiet():
            clean = draw_correct(classifier, loader, self.n_images, device, self.batch_size, seed)
            if not self.black_box and len(clean.images):
                check_differentiable(self.name, classifier, clean.images[:1].to(device))
            gradients = GradientDiagnostics.cat(
                [diagnose_gradients(classifier, x.to(device), y.to(device)) for x, y in clean.batches(self.batch_size)]
            )
            start = time.perf_counter()
            found = self._search(classifier, clean, self.epsilon, device)
            seconds = time.perf_counter() - start
            success, prediction = self._evaluate(classifier, clean, found, self.epsilon, device)
            huge_epsilon, huge_success_rate = self._try_huge_budget(classifier, clean, device)
        change = (found - clean.images).flatten(1)[success]
        result = AttackResult(
            name=self.name,
            norm=self.norm,
            epsilon=self.epsilon,
            black_box=self.black_box,
            images=found[success],
            index=clean.index[success],
            label=clean.label[success],
            prediction=prediction[success],
            attacked=clean.index,
            median_l1=_median(change.abs().sum(dim=1)),
            median_l2=_median(change.norm(dim=1)),
            median_linf=_median(change.abs().amax(dim=1)),
            zero_gradient_share=_share(gradients.zero),
            vanishing_gradient_share=_share(gradients.vanishing),
            non_finite_gradient_share=_share(gradients.non_finite),
            random_share=_share(gradients.random),
            huge_epsilon=huge_epsilon,
            huge_success_rate=huge_success_rate,
            seconds=seconds,
        )
        warn(self.name, result_diagnostics(result))
        return result

    def _search(
        self, classifier: nn.Module, clean: CorrectImages, epsilon: float | None, device: torch.device
    ) -> Tensor:
        """What the attack makes of the images, NaN where its arithmetic broke down."""
        if not len(clean.images):
            return clean.images
        model = PyTorchModel(classifier, bounds=(0, 1), device=device)
        found = []
        for x, y in with_progress(clean.batches(self.batch_size), f"attack {self.name}"):
            _, perturbed, _ = self.method(model, x.to(device), y.to(device), epsilons=epsilon)
            found.append(perturbed.detach().clamp(0, 1).cpu())
        return torch.cat(found)

    def _evaluate(
        self, classifier: nn.Module, clean: CorrectImages, found: Tensor, epsilon: float | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Which images are successes, (n,) bool, and what they are classified as, (n,)."""
        prediction = predict(classifier, found, device, self.batch_size)
        # foolbox's Carlini-Wagner returns an image of zeros where it found nothing, which may well be
        # misclassified
        answered = found.isfinite().flatten(1).all(dim=1) & (found != 0).flatten(1).any(dim=1)
        if epsilon is not None and len(found):
            answered &= self.method.distance(clean.images, found) <= epsilon * (1 + _TOLERANCE)
        return (prediction != clean.label) & answered, prediction

    def _try_huge_budget(
        self, classifier: nn.Module, clean: CorrectImages, device: torch.device
    ) -> tuple[float | None, float | None]:
        """A budget that suffices for every image, and the share of a few images for which it does."""
        if self.black_box or self.epsilon is None or not len(clean.images):
            return None, None
        drawn = torch.randperm(len(clean.images), generator=torch.Generator().manual_seed(0))
        few = clean.rows(drawn[:_N_HUGE].sort().values)  # at random, since data may be sorted by class
        epsilon = huge_budget(self.norm, clean.images[0].numel())
        found = self._search(classifier, few, epsilon, device)
        success, _ = self._evaluate(classifier, few, found, epsilon, device)
        return epsilon, _share(success)


def _single(method: AttackWithDistance) -> AttackWithDistance:
    """The attack that is repeated, or the attack."""
    return _single(method.attack) if isinstance(method, Repeated) else method


def _median(values: Tensor) -> float | None:
    return float(values.median()) if len(values) else None


def _share(found: Tensor) -> float:
    return float(found.double().mean()) if len(found) else 0.0


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep out the lines that foolbox writes to the root logger for every batch."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
