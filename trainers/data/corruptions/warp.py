"""Warping, motion and smoothing of images, for the corruptions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS_A_PIXEL = 2  # of a motion


def side(images: Tensor) -> int:
    """The shorter side of images (N, C, H, W) in pixels."""
    return min(images.shape[-2:])


def warp(images: Tensor, displacement: Tensor) -> Tensor:
    """The images, each pixel read off elsewhere, between pixels linearly, mirrored at the border.

    The displacement, (N or 1, H or 1, W or 1, 2), is to the right and down, in pixels.
    """
    n, _, height, width = images.shape
    identity = torch.eye(2, 3, dtype=images.dtype, device=images.device).expand(n, 2, 3)
    grid = F.affine_grid(identity, [n, 1, height, width], align_corners=False)
    scale = torch.tensor([2 / width, 2 / height], dtype=images.dtype, device=images.device)
    return F.grid_sample(images, grid + displacement * scale, padding_mode="reflection", align_corners=False)


def smear(images: Tensor, angle: Tensor, length: float) -> Tensor:
    """The mean over a straight motion of a length in pixels, at angles (N,) from the right downwards."""
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1).reshape(-1, 1, 1, 2)
    times = torch.linspace(-0.5, 0.5, 2 * math.ceil(STEPS_A_PIXEL * length / 2) + 1).tolist()
    return torch.stack([warp(images, length * time * direction) for time in times]).mean(dim=0)


def smooth(field: Tensor, std: float) -> Tensor:
    """Gaussian blur of (N, C, H, W) by `std` pixels, any width of kernel on any size of image, edges repeated."""
    reach = max(1, round(3 * std))
    offsets = torch.arange(-reach, reach + 1, dtype=field.dtype, device=field.device)
    kernel = (-0.5 * (offsets / std).square()).exp()
    kernel = (kernel / kernel.sum()).expand(field.shape[1], 1, -1)
    for weight, pad in ((kernel[:, :, None, :], (reach, reach, 0, 0)), (kernel[:, :, :, None], (0, 0, reach, reach))):
        field = F.conv2d(F.pad(field, pad, mode="replicate"), weight, groups=field.shape[1])
    return field
