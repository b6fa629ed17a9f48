"""A dataset seen through a corruption."""

from typing import Protocol

import torch
from torch import Tensor

from trainers.data.images import LabelledImages

SEVERITIES = (1, 2, 3, 4, 5)


class Corruption(Protocol):
    """What every corruption is."""

    def __call__(self, images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
        """Corrupted images (N, C, H, W), see the package."""


class CorruptedImages(LabelledImages):
    """Some images of a dataset with their labels, corrupted when they are read.

    What is random depends on the seed and on the image's position in the dataset alone: not on the severity, nor on how
    batches are made.

    Args:
        dataset: where the images are read.
        indices: (M,) the items to show, in order.
        corruption: applied to each.
        severity: one of `SEVERITIES`.
        seed: of what is random.

    Raises:
        ValueError: the severity is none of these.
    """

    def __init__(
        self, dataset: LabelledImages, indices: Tensor, corruption: Corruption, severity: int, seed: int
    ) -> None:
        if severity not in SEVERITIES:
            raise ValueError(f"severity: expected one of {SEVERITIES}; got {severity}")
        self.dataset = dataset
        self.indices = indices
        self.corruption = corruption
        self.severity = severity
        self.seed = seed
        self.targets = dataset.targets[indices]
        self.class_names = dataset.class_names
        self.image_shape = dataset.image_shape

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        position = int(self.indices[index])
        image, _ = self.dataset[position]
        # only 32 bits of a seed count
        generator = torch.Generator().manual_seed((1_000_003 * self.seed + position) % 2**32)
        corrupted = self.corruption(image[None], severity=self.severity, generator=generator)[0]
        return corrupted, int(self.targets[index])
