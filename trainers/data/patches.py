"""Out-of-distribution patches of the two photographs that scikit-learn ships."""

import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2 import functional as transforms

from trainers.data.conform import conform
from trainers.data.images import ImageArray, ImageShape, check_n_images

SMALLEST, LARGEST = 32, 256
"""Bounds of a patch's shorter side, in pixels of the photograph (427 x 640)."""


def patches(image_shape: ImageShape, seed: int, *, n_images: int = 1000) -> ImageArray:
    """Cut patches of random place and size, in the aspect ratio of ``image_shape``, and scale them to it.

    Raises:
        ValueError: ``n_images`` < 1.
    """
    check_n_images(n_images)
    photographs = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    draws = torch.rand(n_images, 4, generator=torch.Generator().manual_seed(seed)).tolist()
    return ImageArray(torch.stack([_patch(photographs, draw, image_shape) for draw in draws]))


def _patch(photographs: list[torch.Tensor], draw: list[float], image_shape: ImageShape) -> torch.Tensor:
    which, size, down, right = draw
    photograph = photographs[int(which * len(photographs))]
    rows, columns = photograph.shape[1:]
    _, height, width = image_shape
    short = SMALLEST + size * (LARGEST - SMALLEST)
    scale = min(short / min(height, width), rows / height, columns / width)
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = int(down * (rows - h + 1)), int(right * (columns - w + 1))
    return conform(transforms.crop(photograph, top, left, h, w), image_shape)
