"""Corruptions by noise of the sensor or the line."""

import torch
from torch import Tensor

from trainers.data.corruptions.draws import normal, uniform


def gaussian_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Normal noise, as of a sensor in the dark."""
    std = (0.04, 0.07, 0.11, 0.16, 0.22)[severity - 1]
    return (images + std * normal(images, tuple(images.shape), generator)).clamp(0, 1)


def shot_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Poisson noise, as of light that comes in quanta: the fewer a pixel counts, the stronger."""
    quanta = (200, 80, 35, 18, 10)[severity - 1]
    counts = torch.poisson(quanta * images.cpu().double(), generator=generator)
    return (counts / quanta).to(images).clamp(0, 1)


def impulse_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Values that turn black or white, as by faulty bits."""
    share = (0.01, 0.03, 0.06, 0.11, 0.18)[severity - 1]
    hit = uniform(images, tuple(images.shape), generator) < share
    extreme = (uniform(images, tuple(images.shape), generator) < 0.5).to(images)
    return torch.where(hit, extreme, images)
