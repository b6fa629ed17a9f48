"""Labelled images: the interface of every dataset."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gmm_torch.checks import check_choice
from trainers.data.pixels import as_unit

N_PROBES = 64  # images whose pixels make a digest

UNKNOWN_LABEL = -1
"""The label of an image that belongs to none of the classes."""

ImageShape = tuple[int, int, int]
"""Channels, height, width."""

SPLITS = ("train", "test")
"""The two official splits of a dataset."""


def check_split(split: str, allowed: Sequence[str] = SPLITS) -> None:
    """Raise ValueError unless ``split`` is one of ``allowed``."""
    check_choice("split", split, allowed)


def check_n_images(n_images: int) -> None:
    """Raise ValueError unless there is an image."""
    if n_images < 1:
        raise ValueError(f"n_images: expected an integer >= 1; got {n_images}")


def as_image_shape(shape: Sequence[int]) -> ImageShape:
    """A triple as (C, H, W); ValueError for what is not three positive integers, or neither 1 nor 3 channels."""
    values = tuple(shape)
    if len(values) != 3 or not all(isinstance(v, int) and v > 0 for v in values) or values[0] not in (1, 3):
        raise ValueError(
            f"image_shape: expected [channels, height, width], 1 or 3 channels and positive sizes; got {list(values)}"
        )
    return values[0], values[1], values[2]


class LabelledImages(Dataset[tuple[Tensor, int]], ABC):
    """A dataset of ``(image, label)``: float32 (C, H, W) in [0, 1], and an int."""

    targets: Tensor  # (N,) int64 labels, `UNKNOWN_LABEL` where there is none
    class_names: list[str]  # one for each class, in the order of the labels
    image_shape: ImageShape
    # (H,) int64, which of them nobody trains on or fits to; None leaves it to the data module's shares
    held_out: Tensor | None = None
    left_out: Mapping[str, str] = MappingProxyType({})  # path of each file that can't be read -> why
    paths: Sequence[str] = ()  # of the images' files, where they are in files
    divided: bool = False  # whether they are a random share of a folder that has no folders for training and test

    def __len__(self) -> int:
        return len(self.targets)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The image and the label at ``index``."""


class ImageArray(LabelledImages):
    """Labelled images in memory: bytes, a quarter of what float32 takes, where they have no more than 8 bits.

    Args:
        images: (N, C, H, W) uint8, or float32 in [0, 1].
        targets: (N,) int64; None where the images belong to none of the classes.
        class_names: one for each class.

    Raises:
        ValueError: wrong rank or type, or not one label for each image.
    """

    def __init__(self, images: Tensor, targets: Tensor | None = None, class_names: Sequence[str] = ()) -> None:
        if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"images: expected uint8 or float32 in [0, 1] (N, C, H, W); got {images.dtype} {tuple(images.shape)}"
            )
        if targets is None:
            targets = torch.full((len(images),), UNKNOWN_LABEL)
        if targets.shape != (len(images),):
            raise ValueError(f"targets: expected ({len(images)},) to match the images; got {tuple(targets.shape)}")
        self.images = images.contiguous()
        self.targets = targets.long()
        self.class_names = list(class_names)
        self.image_shape = as_image_shape(images.shape[1:])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return as_unit(self.images[index]), int(self.targets[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """A batch of items; DataLoader prefers this to one call for each item."""
        images = as_unit(self.images[indices])
        return list(zip(images.unbind(), self.targets[indices].tolist(), strict=True))


@dataclass(eq=False, repr=False)
class MappedImages(LabelledImages):
    """Labelled images with a function applied to each image when it is read."""

    dataset: Dataset[tuple[Tensor, int]]
    indices: Tensor  # (M,) the items of `dataset` to show, in order
    function: Callable[[Tensor], Tensor]
    targets: Tensor  # (M,) labels to show in place of those of `dataset`
    image_shape: ImageShape  # of what `function` returns
    class_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.class_names = list(self.class_names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, _ = self.dataset[int(self.indices[index])]
        return self.function(image), int(self.targets[index])


def content_digest(dataset: LabelledImages) -> str:
    """A hexadecimal digest of a dataset: all labels, all class names, and evenly spaced images.

    A sample of the images keeps this quick for folders that don't fit in memory; the result doesn't depend on
    how the dataset stores them.
    """
    digest = hashlib.sha256()
    digest.update(repr((len(dataset), dataset.image_shape, dataset.class_names)).encode())
    digest.update(dataset.targets.numpy().tobytes())
    for index in torch.linspace(0, len(dataset) - 1, min(N_PROBES, len(dataset))).long().tolist():
        digest.update(dataset[index][0].mul(255).round().byte().numpy().tobytes())
    return digest.hexdigest()
