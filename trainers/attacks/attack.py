"""One narrow interface over foolbox's attacks."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import torch
from foolbox import PyTorchModel
from foolbox.attacks.base import AttackWithDistance, FixedEpsilonAttack
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainers.attacks.checks import has_zero_gradient, warn_if_untrustworthy
from trainers.attacks.frozen import frozen
from trainers.attacks.result import AttackResult
from trainers.attacks.selection import Selection, predict, select_right

_TOLERANCE = 1e-4  # relative: adding a perturbation to an image and taking it off again rounds


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
    ) -> None:
        if not isinstance(method, AttackWithDistance):
            raise ValueError(f"attack {name}: method must be a foolbox attack, got {type(method).__name__}")
        if epsilon is None and isinstance(method, FixedEpsilonAttack):
            raise ValueError(f"attack {name}: {type(method).__name__} needs a budget; set epsilon, to 8/255 say")
        if n_images is not None and n_images < 1:
            raise ValueError(f"attack {name}: n_images must be at least 1, or null for all, got {n_images}")
        if batch_size < 1:
            raise ValueError(f"attack {name}: batch_size must be at least 1, got {batch_size}")
        self.name = name
        self.method = method
        self.epsilon = None if epsilon is None else _parse_budget(name, epsilon)
        self.n_images = n_images
        self.batch_size = batch_size

    def run(
        self, classifier: nn.Module, loader: DataLoader, device: torch.device | str = "cpu", seed: int = 0
    ) -> AttackResult:
        """Attack images of a data set.

        Args:
            classifier: images (N, C, H, W) in [0, 1] to logits (N, classes), its normalisation inside. It is
                moved to `device`; its modes and its parameters' `requires_grad` are restored afterwards.
            loader: gives batches of images and labels, in the order of its data set.
            device: where to attack.
            seed: decides which images are attacked and what the attack draws. The global generators of torch
                are left as they were.

        Returns:
            The successes. Without any the result is empty, and an `AttackWarning` says so.

        Raises:
            ValueError: if the loader shuffles, its data set is empty, or images are not in [0, 1].
        """
        start = time.perf_counter()
        device = torch.device(device)
        with frozen(classifier.to(device)), _seeded(seed, device), _quiet():
            clean = select_right(classifier, loader, self.n_images, device, self.batch_size, seed)
            found, zero_gradient = self._search(classifier, clean, device)
            prediction = predict(classifier, found, device, self.batch_size)
        change = (found - clean.images).flatten(1)
        success = (prediction != clean.label) & self._allowed(clean.images, found)
        result = AttackResult(
            name=self.name,
            epsilon=self.epsilon,
            images=found[success],
            index=clean.index[success],
            label=clean.label[success],
            prediction=prediction[success],
            n_attacked=len(clean.index),
            median_l2=_median(change[success].norm(dim=1)),
            median_linf=_median(change[success].abs().amax(dim=1)),
            zero_gradient_share=float(zero_gradient.float().mean()) if len(zero_gradient) else 0.0,
            seconds=time.perf_counter() - start,
        )
        warn_if_untrustworthy(result)
        return result

    def _search(self, classifier: nn.Module, clean: Selection, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what the attack made of the images, (n, C, H, W), and where there was no gradient, (n,)."""
        if not len(clean.images):
            return clean.images, torch.zeros(0, dtype=torch.bool)
        model = PyTorchModel(classifier, bounds=(0, 1), device=device)
        batches = list(zip(clean.images.split(self.batch_size), clean.label.split(self.batch_size), strict=True))
        found, zero_gradient = [], []
        console = Console(stderr=True)
        for images, labels in track(
            batches,
            description=f"attack {self.name}",
            transient=True,
            console=console,
            disable=not console.is_terminal,
        ):
            images, labels = images.to(device), labels.to(device)
            zero_gradient.append(has_zero_gradient(classifier, images, labels).cpu())
            _, perturbed, _ = self.method(model, images, labels, epsilons=self.epsilon)
            found.append(perturbed.detach().clamp(0, 1).cpu())
        return torch.cat(found), torch.cat(zero_gradient)

    def _allowed(self, clean: Tensor, found: Tensor) -> Tensor:
        """Tell which images are answers within the budget, (n,) bool."""
        # foolbox's Carlini-Wagner returns an image of zeros where it found nothing, which may well be
        # misclassified
        answered = found.isfinite().flatten(1).all(dim=1) & (found != 0).flatten(1).any(dim=1)
        if self.epsilon is None or not len(found):
            return answered
        return answered & (self.method.distance(clean, found) <= self.epsilon * (1 + _TOLERANCE))


def _parse_budget(name: str, epsilon: float | str) -> float:
    try:
        value = float(Fraction(epsilon))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(
            f"attack {name}: epsilon must be a number, or a fraction such as 8/255, got {epsilon!r}"
        ) from error
    if not value > 0:
        raise ValueError(f"attack {name}: epsilon must be positive, or null for the smallest, got {epsilon!r}")
    return value


def _median(values: Tensor) -> float | None:
    return float(values.median()) if len(values) else None


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
