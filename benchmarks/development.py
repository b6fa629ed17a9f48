"""Two networks and failures that no published table has: what choices are made on.

CIFAR-10 (a checkpoint and an image folder; what is judged are training images that it was not fitted to) and
Fashion-MNIST (a small network, trained here for three epochs). The attacks and sets are other ones than those of
`detection.py`, by another norm, another step or another source.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from configuration import composed
from detection import ERRORS, Attacks, Workbench, ood_sets
from hydra.utils import instantiate
from torch import Tensor

from gmm_torch.files import atomic_path
from trainers.cache.run_folder import WEIGHTS
from trainers.classifiers.build import build_classifier
from trainers.data.folder import image_folder
from trainers.data.images import UNKNOWN_LABEL, ImageArray, LabelledImages, MappedImages
from trainers.run.run import Run
from trainers.run.training import train_classifier

N_IMAGES = 2500  # of a set of another distribution
ATTACKS: Attacks = {
    "mi_fgsm 4/255": ("mi_fgsm", {"epsilon": "4/255"}),
    "pgd_l2 0.5": ("pgd_l2", {"epsilon": 0.5}),
    "pgd_l2 1": ("pgd_l2", {"epsilon": 1.0}),
    "bim_l2 2": ("bim", {"method": {"_target_": "foolbox.attacks.L2BasicIterativeAttack"}, "epsilon": 2.0}),
    "fgm_l2 1.5": ("fgsm", {"method": {"_target_": "foolbox.attacks.L2FastGradientAttack"}, "epsilon": 1.5}),
    "ddn": ("ddn", {}),
}
NOISES = {"patches": "patches", "digits": "digits", "gaussian noise": "gaussian_noise"}
DERIVED = ("upside down", "means of two", "scrambled phases", "1/f noise")
SETS = (*NOISES, *DERIVED)
COLUMNS = (ERRORS, *ATTACKS, *SETS)


def derived(images: Tensor, seed: int) -> dict[str, LabelledImages]:
    """Sets that are made of images (N, C, H, W) in [0, 1], and 1/f noise of their shape."""
    generator = torch.Generator().manual_seed(seed)
    size = images.shape[-2:]
    other = images[torch.randperm(len(images), generator=generator)]
    white = torch.fft.rfft2(torch.randn(len(images), 1, *size, generator=generator))
    spectrum = torch.fft.rfft2(images).abs() * torch.exp(1j * white.angle())
    rows, columns = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])
    frequency = (rows.square() + columns.square()).sqrt()
    coloured = torch.randn(len(images), *images.shape[1:], generator=generator)
    pink = torch.fft.irfft2(torch.fft.rfft2(coloured) / frequency.clamp_min(frequency[0, 1]), s=size)
    pink = 0.5 + 0.25 * (pink - pink.mean((1, 2, 3), keepdim=True)) / pink.std((1, 2, 3), keepdim=True)
    made = (images.flip(-2), (images + other) / 2, torch.fft.irfft2(spectrum, s=size), pink)
    return {name: _array(values) for name, values in zip(DERIVED, made, strict=True)}


def cifar(options: argparse.Namespace) -> Workbench:
    """The ResNet-20 of `detection.py`; test images are every tenth training image, which it was not fitted to."""
    overrides = [f"classifier.checkpoint={options.checkpoint}", "data=image_folder", f"data.root={options.data}"]
    cfg = composed(f"classifier={options.classifier}", *overrides, "data.image_shape=[3,32,32]")
    train = image_folder(options.data, "train", image_shape=(3, 32, 32))
    held_out = torch.arange(0, len(train), options.held_out_every)
    test = MappedImages(train, held_out, _same, train.targets[held_out], train.image_shape, train.class_names)
    classifier = build_classifier(cfg.classifier, len(train.class_names), train.image_shape)
    return _workbench(classifier.to(options.device), train, test, options)


def fashion_mnist(options: argparse.Namespace) -> Workbench:
    """A small network, trained for three epochs on four fifths of the training images and kept in the cache."""
    settings = ["data=fashion_mnist", f"data.root={options.data_root}", "classifier=small_cnn", "seed=0"]
    weights = Path(options.cache).resolve() / "development-fashion_mnist.safetensors"
    if not weights.exists():
        with tempfile.TemporaryDirectory() as folder:
            run = Run(composed(*settings, "trainer.max_epochs=3", "trainer.accelerator=cpu"), Path(folder))
            train_classifier(run)
            with atomic_path(weights) as temporary:
                (Path(folder) / WEIGHTS).rename(temporary)
    cfg = composed(*settings, f"classifier.checkpoint={weights}")
    train, test = (instantiate(cfg.data.source)(root=cfg.data.root, split=split) for split in ("train", "test"))
    classifier = build_classifier(cfg.classifier, len(train.class_names), train.image_shape)
    return _workbench(classifier.to(options.device), train, test, options)


NETWORKS = {"CIFAR-10": cifar, "Fashion-MNIST": fashion_mnist}


def _workbench(
    classifier: torch.nn.Module, train: LabelledImages, test: LabelledImages, options: argparse.Namespace
) -> Workbench:
    few = torch.arange(N_IMAGES) * len(test) // N_IMAGES
    images = torch.stack([test[i][0] for i in few.tolist()])
    return Workbench(
        classifier, train, test, ood_sets(NOISES, train.image_shape, N_IMAGES) | derived(images, seed=0), options
    )


def _array(images: Tensor) -> ImageArray:
    values = images.clamp(0, 1).mul(255).round().byte()
    return ImageArray(values, torch.full((len(values),), UNKNOWN_LABEL))


def _same(image: Tensor) -> Tensor:
    return image


def groups(areas: dict[str, float]) -> dict[str, float]:
    """What the columns come to: AUROC in % of errors, attacks and sets, with the lowest of each."""

    def mean(names: Sequence[str]) -> float:
        return sum(areas[name] for name in names) / len(names)

    return {
        "errors": areas[ERRORS],
        "attacks": mean(list(ATTACKS)),
        "weakest attack": min(areas[name] for name in ATTACKS),
        "other sets": mean(SETS),
        "weakest set": min(areas[name] for name in SETS),
        "mean": mean(COLUMNS),
        "min": min(areas[name] for name in COLUMNS),
    }
