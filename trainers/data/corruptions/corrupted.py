"""A dataset seen through a corruption."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainers.data.images import LabelledImages

SEVERITIES = (1, 2, 3, 4, 5)


class Corruption(Protocol):
    """What every corruption is."""

    def __call__(self, images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
        """Corrupted images (N, C, H, W), see the package."""


@dataclass(eq=False, repr=False)
class CorruptedImages(LabelledImages):
    """Some images of a dataset with their labels, corrupted when they are read.

    What is random depends on the seed and on the image's position in the dataset alone: not on the severity, nor on how
    batches are made.
    """

    dataset: LabelledImages
    indices: Tensor  # (M,) the items of `dataset` to show, in order
    corruption: Corruption
    severity: int
    seed: int

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity: expected one of {SEVERITIES}; got {self.severity}")
        self.targets = self.dataset.targets[self.indices]
        self.class_names = self.dataset.class_names
        self.image_shape = self.dataset.image_shape

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        position = int(self.indices[index])
        image, _ = self.dataset[position]
        # only 32 bits of a seed count
        generator = torch.Generator().manual_seed((1_000_003 * self.seed + position) % 2**32)
        corrupted = self.corruption(image[None], severity=self.severity, generator=generator)[0]
        return corrupted, int(self.targets[index])
