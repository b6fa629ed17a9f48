"""Corruptions by image processing."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from trainers.data.corruptions.draws import uniform
from trainers.data.corruptions.warp import side, smooth, warp


def contrast(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Every pixel comes nearer to the image's mean grey."""
    kept = (0.75, 0.58, 0.42, 0.28, 0.15)[severity - 1]
    return transforms.adjust_contrast(images, kept).clamp(0, 1)


def elastic_transform(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Small regions stretch and shrink."""
    reach = (0.012, 0.02, 0.028, 0.037, 0.047)[severity - 1] * side(images)
    n, _, height, width = images.shape
    moves = smooth(2 * uniform(images, (n, 2, height, width), generator) - 1, max(0.5, 0.08 * side(images)))
    moves = moves / moves.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    return warp(images, reach * moves.permute(0, 2, 3, 1)).clamp(0, 1)


def pixelate(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Fewer, larger pixels."""
    kept = (0.75, 0.6, 0.48, 0.37, 0.27)[severity - 1]
    height, width = images.shape[-2:]
    small = F.interpolate(images, size=(max(1, round(kept * height)), max(1, round(kept * width))), mode="area")
    return F.interpolate(small, size=(height, width), mode="area")  # mixes where borders fall within a pixel


def jpeg_compression(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Lossy compression, in blocks of eight pixels whatever the size of the image."""
    quality = (60, 38, 22, 13, 7)[severity - 1]
    coded = transforms.to_dtype(images.cpu(), torch.uint8, scale=True)
    decoded = torch.stack([transforms.jpeg(image, quality) for image in coded])
    return transforms.to_dtype(decoded, images.dtype, scale=True).to(images.device)
