"""Conversion of an image of any size and colour to the shape that a classifier takes."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from trainers.data.images import ImageShape
from trainers.data.pixels import as_unit, is_gray, standard_mode, to_tensor


def conform(image: Tensor, image_shape: ImageShape) -> Tensor:
    """Convert an image to ``image_shape``.

    Colour becomes luminance (ITU-R 601) and gray becomes three equal channels. The image is scaled, with
    antialiasing, until it covers the target, then cropped at the centre, so that its aspect ratio stays.

    Args:
        image: (c, h, w) float in [0, 1] or uint8, c = 1 or 3; its type stays.
        image_shape: the wanted (C, H, W).

    Raises:
        ValueError: ``image`` has another rank or number of channels.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"image: expected (C, H, W) with 1 or 3 channels; got {tuple(image.shape)}: convert it")
    channels, height, width = image_shape
    if image.shape[0] != channels:
        image = image.expand(3, -1, -1) if channels == 3 else transforms.rgb_to_grayscale(image)
    if image.shape[1:] != (height, width):
        scale = max(height / image.shape[1], width / image.shape[2])
        size = [max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale))]
        image = transforms.center_crop(transforms.resize(image, size, antialias=True), [height, width])
        if image.is_floating_point():
            image = image.clamp(0, 1)
    return image


def as_image(image: object) -> Tensor:
    """Convert a PIL image, an array (H, W, C) or a tensor (C, H, W) to float32 (C, H, W) in [0, 1]."""
    if isinstance(image, Image.Image):
        channels = 1 if is_gray(image) else 3
        return as_unit(to_tensor(standard_mode(image, channels), channels))
    return transforms.to_dtype(transforms.to_image(image), torch.float32, scale=True).as_subclass(Tensor)
