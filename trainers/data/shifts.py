"""The test images as they would come from elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from trainers.data.conform import conform
from trainers.data.corruptions import SEVERITIES, CorruptedImages, Corruption
from trainers.data.errors import DataError
from trainers.data.images import LabelledImages, MappedImages


class Shift(Protocol):
    """What every shift is."""

    def __call__(self, images: LabelledImages, seed: int) -> dict[str, LabelledImages]:
        """Labelled images of the same classes and shape from elsewhere, by what is said of them."""


def corrupted(
    images: LabelledImages, seed: int, *, corruptions: Mapping[str, Corruption] | None
) -> dict[str, LabelledImages]:
    """The images in five severities of every corruption; ValueError where there is none."""
    if not corruptions:
        raise ValueError(
            "shift=corruptions: expected corruptions; got none: set corruption=[fog,motion_blur], or [all]"
        )
    every = torch.arange(len(images))
    return {
        f"{name} {severity}": CorruptedImages(images, every, corruption, severity, seed)
        for name, corruption in corruptions.items()
        for severity in SEVERITIES
    }


def other_moments(
    images: LabelledImages,
    seed: int,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    other_mean: Sequence[float],
    other_std: Sequence[float],
) -> dict[str, LabelledImages]:
    """The images as a classifier gets them that was trained with `mean` and `std`, and is given others.

    Raises:
        ValueError: the right moments are not known.
    """
    if mean is None or std is None:
        raise ValueError("shift=preprocessing: expected the moments of the data; got none: set data.mean and data.std")
    moments = [torch.tensor(list(each))[:, None, None] for each in (mean, std, other_mean, other_std)]
    return {"other moments": _changed(images, partial(_with_moments, moments=moments), images)}


def other_images(
    images: LabelledImages, seed: int, *, dataset: Callable[[], LabelledImages]
) -> dict[str, LabelledImages]:
    """The labelled images of another data set, brought to the shape of these; DataError where it has other classes."""
    others = dataset()
    largest = int(others.targets.max())
    if not 0 <= int(others.targets.min()) <= largest < len(images.class_names):
        raise DataError(
            f"shift: expected images of the {len(images.class_names)} classes of the data; got labels up to {largest}: "
            "give another data set of the same classes"
        )
    return {"its images": _changed(others, partial(conform, image_shape=images.image_shape), images)}


def _with_moments(image: Tensor, moments: Sequence[Tensor]) -> Tensor:
    mean, std, other_mean, other_std = moments
    return (image - other_mean) / other_std * std + mean


def _changed(images: LabelledImages, change: Callable[[Tensor], Tensor], like: LabelledImages) -> MappedImages:
    """All of the images with their labels, changed to what other images are like."""
    every = torch.arange(len(images))
    return MappedImages(images, every, change, images.targets, like.image_shape, like.class_names)
