"""Random changes to training images."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms import v2

from trainers.data.images import ImageShape


@dataclass(frozen=True)
class Augmentation:
    """Random crop of the zero-padded image and random horizontal flip, as in He et al. 2016, section 4.2.

    Attributes:
        crop_padding: pixels of padding on each side before the crop; 0 for no crop.
        horizontal_flip: whether to mirror half of the images, left to right.
    """

    crop_padding: int = 0
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must be a number of pixels >= 0, got {self.crop_padding}")

    def transform(self, image_shape: ImageShape) -> Callable[[Tensor], Tensor] | None:
        """Return the function that changes an image (C, H, W), or None when there is nothing to change."""
        steps: list[Callable[[Tensor], Tensor]] = []
        if self.crop_padding:
            steps.append(v2.RandomCrop(image_shape[1:], padding=self.crop_padding))
        if self.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose(steps) if steps else None
