"""Out-of-distribution images of noise."""

import torch

from trainers.data.images import UNKNOWN_LABEL, ImageArray, ImageShape


def uniform_noise(image_shape: ImageShape, seed: int, *, n_images: int = 1000) -> ImageArray:
    """Draw images of independent pixels, uniform in [0, 1] (in steps of 1/255, as any stored image).

    Args:
        image_shape: (C, H, W).
        seed: of the draw.
        n_images: how many.

    Raises:
        ValueError: ``n_images`` < 1.
    """
    images = torch.randint(256, _shape(n_images, image_shape), generator=_generator(seed), dtype=torch.uint8)
    return ImageArray(images, torch.full((n_images,), UNKNOWN_LABEL))


def gaussian_noise(
    image_shape: ImageShape, seed: int, *, n_images: int = 1000, mean: float = 0.5, std: float = 0.25
) -> ImageArray:
    """Draw images of independent normal pixels, clipped to [0, 1].

    Args:
        image_shape: (C, H, W).
        seed: of the draw.
        n_images: how many.
        mean: of a pixel before clipping.
        std: of a pixel before clipping.

    Raises:
        ValueError: ``n_images`` < 1 or ``std`` <= 0.
    """
    if not std > 0:
        raise ValueError(f"std: expected a number > 0; got {std}")
    pixels = torch.randn(_shape(n_images, image_shape), generator=_generator(seed)).mul_(std).add_(mean)
    return ImageArray(pixels.clamp_(0, 1).mul_(255).round_().byte(), torch.full((n_images,), UNKNOWN_LABEL))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _shape(n_images: int, image_shape: ImageShape) -> tuple[int, ...]:
    if n_images < 1:
        raise ValueError(f"n_images: expected an integer >= 1; got {n_images}")
    return (n_images, *image_shape)
