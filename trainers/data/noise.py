"""Out-of-distribution images of noise."""

import torch

from trainers.data.images import ImageArray, ImageShape, check_n_images


def uniform_noise(image_shape: ImageShape, seed: int, *, n_images: int = 1000) -> ImageArray:
    """Images of independent pixels, uniform in [0, 1] (in steps of 1/255, as any stored image).

    Raises:
        ValueError: ``n_images`` < 1.
    """
    check_n_images(n_images)
    generator = torch.Generator().manual_seed(seed)
    return ImageArray(torch.randint(256, (n_images, *image_shape), generator=generator, dtype=torch.uint8))


def gaussian_noise(
    image_shape: ImageShape, seed: int, *, n_images: int = 1000, mean: float = 0.5, std: float = 0.25
) -> ImageArray:
    """Images of independent normal pixels, clipped to [0, 1]; mean and std are those before clipping.

    Raises:
        ValueError: ``n_images`` < 1 or ``std`` <= 0.
    """
    check_n_images(n_images)
    if not std > 0:
        raise ValueError(f"std: expected a number > 0; got {std}")
    pixels = torch.randn(n_images, *image_shape, generator=torch.Generator().manual_seed(seed)).mul_(std).add_(mean)
    return ImageArray(pixels.clamp_(0, 1).mul_(255).round_().byte())
