"""Blur by the lens, by glass, by motion."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.data.corruptions.draws import uniform
from trainers.data.corruptions.warp import STEPS_A_PIXEL, side, smear, smooth, warp


def defocus_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Every point becomes a disc, as out of focus."""
    radius = (0.01, 0.02, 0.033, 0.05, 0.075)[severity - 1] * side(images)
    reach = math.ceil(radius)
    offset = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    distance = (offset[:, None].square() + offset.square()).sqrt()
    disc = (radius + 1 - distance).clamp(0, 1)  # an edge of one pixel lets the radius grow by less than a pixel
    kernel = (disc / disc.sum()).expand(images.shape[1], 1, -1, -1)
    padded = F.pad(images, [reach] * 4, mode="replicate")
    return F.conv2d(padded, kernel, groups=images.shape[1]).clamp(0, 1)


def glass_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Pixels change places with others nearby, as behind frosted glass."""
    reach = (0.015, 0.025, 0.037, 0.052, 0.07)[severity - 1] * side(images)
    n, _, height, width = images.shape
    moves = 2 * uniform(images, (n, height, width, 2), generator) - 1
    return smooth(warp(images, reach * moves), max(0.3, reach / 4)).clamp(0, 1)


def motion_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The mean over a straight motion in a random direction."""
    length = (0.05, 0.09, 0.14, 0.2, 0.28)[severity - 1] * side(images)
    return smear(images, math.pi * uniform(images, (len(images),), generator), length).clamp(0, 1)


def zoom_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The mean over a motion towards the middle of the image."""
    most = (0.06, 0.11, 0.17, 0.24, 0.32)[severity - 1]
    height, width = images.shape[-2:]
    down = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2
    right = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    from_middle = torch.stack([right.expand(height, width), down[:, None].expand(height, width)], dim=-1)
    n_steps = max(2, math.ceil(STEPS_A_PIXEL * most * side(images) / 2))
    zooms = [1 + most * step / n_steps for step in range(n_steps + 1)]
    return torch.stack([warp(images, (1 / zoom - 1) * from_middle) for zoom in zooms]).mean(dim=0).clamp(0, 1)
