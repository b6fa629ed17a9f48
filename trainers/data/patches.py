"""Out-of-distribution patches of the two photographs that scikit-learn ships."""

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from trainers.data.conform import conform
from trainers.data.images import UNKNOWN_LABEL, ImageShape, LabelledImages, check_n_images
from trainers.data.pixels import as_unit

SMALLEST, LARGEST = 32, 256
"""Bounds of a patch's shorter side, in pixels of the photograph (427 x 640)."""


def patches(image_shape: ImageShape, seed: int, *, n_images: int = 1000) -> "Patches":
    """Patches of random place and size, in the aspect ratio of ``image_shape``, scaled to it.

    Raises:
        ValueError: ``n_images`` < 1.
    """
    check_n_images(n_images)
    photographs = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    draws = torch.rand(n_images, 4, generator=torch.Generator().manual_seed(seed))
    return Patches(photographs, draws, image_shape)


class Patches(LabelledImages):
    """Each patch is cut and scaled when it is read: of many a run may want a few.

    Args:
        photographs: (3, h, w) uint8 each.
        draws: (N, 4) in [0, 1): which photograph, how large, how far down and right.
        image_shape: of the patches.
    """

    def __init__(self, photographs: list[Tensor], draws: Tensor, image_shape: ImageShape) -> None:
        self.targets = torch.full((len(draws),), UNKNOWN_LABEL)
        self.class_names: list[str] = []
        self.image_shape = image_shape
        self._photographs, self._draws = photographs, draws

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return as_unit(self._patch(index)), UNKNOWN_LABEL

    def _patch(self, index: int) -> Tensor:
        which, size, down, right = self._draws[index].tolist()
        photograph = self._photographs[int(which * len(self._photographs))]
        rows, columns = photograph.shape[1:]
        _, height, width = self.image_shape
        short = SMALLEST + size * (LARGEST - SMALLEST)
        scale = min(short / min(height, width), rows / height, columns / width)
        h, w = max(1, int(height * scale)), max(1, int(width * scale))
        top, left = int(down * (rows - h + 1)), int(right * (columns - w + 1))
        return conform(transforms.crop(photograph, top, left, h, w), self.image_shape)
