"""Snow, frost, fog and glare."""

import math

import torch
from torch import Tensor

from trainers.data.corruptions.draws import clouds, uniform
from trainers.data.corruptions.warp import side, smear, smooth


def snow(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Flakes that fall in streaks, and colours that turn pale."""
    share, pale = ((0.003, 0.08), (0.006, 0.14), (0.01, 0.2), (0.015, 0.26), (0.022, 0.32))[severity - 1]
    n, _, height, width = images.shape
    size = max(0.5, 0.012 * side(images))  # of a flake
    draw = uniform(images, (n, 1, height, width), generator)
    flakes = smooth((draw < share / size**2).to(images), size) * (2 * math.pi * size**2)
    angle = math.pi * (0.25 + 0.5 * uniform(images, (n,), generator))  # steeper than a diagonal
    streaks = smear(flakes, angle, 0.08 * side(images))
    whitened = images + pale * (_grey(images) * 0.5 + 0.5 - images)
    return torch.maximum(whitened, whitened + 1.5 * streaks * (1 - whitened)).clamp(0, 1)


def frost(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Bright veins of ice that grow from the border over a dimmed image."""
    cover, dim = ((0.25, 0.92), (0.38, 0.86), (0.5, 0.8), (0.62, 0.74), (0.75, 0.68))[severity - 1]
    veins = (1 - (2 * clouds(images, generator) - 1).abs()).pow(3)
    height, width = images.shape[-2:]
    down = torch.linspace(-1, 1, height, dtype=images.dtype, device=images.device).abs()
    right = torch.linspace(-1, 1, width, dtype=images.dtype, device=images.device).abs()
    border = torch.maximum(down[:, None], right).pow(2)
    ice = (cover * (0.35 + 0.65 * border) * (0.3 + 0.7 * veins)).clamp(0, 1)
    tint = images.new_tensor([0.85, 0.93, 1.0] if images.shape[1] == 3 else [0.93]).reshape(1, -1, 1, 1)
    return ((1 - ice) * dim * images + ice * tint).clamp(0, 1)


def fog(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """A bright veil of uneven depth."""
    depth = (0.2, 0.32, 0.44, 0.56, 0.7)[severity - 1]
    veil = depth * (0.6 + 0.4 * clouds(images, generator))
    return ((1 - veil) * images + veil * 0.9).clamp(0, 1)


def brightness(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Too much light: the largest channel grows by the same everywhere, hue and saturation stay."""
    more = (0.08, 0.16, 0.24, 0.33, 0.43)[severity - 1]
    value = images.amax(dim=1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * brighter / value.clamp_min(1e-6), brighter).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    return images.mean(dim=1, keepdim=True)
