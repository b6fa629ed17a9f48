"""Random numbers that are the same on every device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def normal(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers, in the dtype and on the device of `like`."""
    return torch.randn(shape, generator=generator).to(like)


def uniform(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers from [0, 1), in the dtype and on the device of `like`."""
    return torch.rand(shape, generator=generator).to(like)


def clouds(like: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth random fields that vary on every scale, (N, 1, H, W), each spread over [0, 1].

    Each octave has half the amplitude and twice the frequency of the one before, from the whole image to pixels.
    """
    n, _, height, width = like.shape
    field = torch.zeros_like(like[:, :1])
    cells, amplitude = 2, 1.0
    while cells <= max(2, min(height, width)):
        octave = uniform(like, (n, 1, cells, cells), generator)
        field += amplitude * F.interpolate(octave, size=(height, width), mode="bicubic", align_corners=True)
        cells, amplitude = 2 * cells, amplitude / 2
    low, high = field.amin((1, 2, 3), keepdim=True), field.amax((1, 2, 3), keepdim=True)
    return (field - low) / (high - low).clamp_min(torch.finfo(like.dtype).eps)
