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
            raise ValueError(f"crop_padding: expected a number of pixels >= 0; got {self.crop_padding}")

    def transform(self, image_shape: ImageShape) -> Callable[[Tensor], Tensor] | None:
        """The function that changes an image (C, H, W), or None when there is nothing to change."""
        steps: list[Callable[[Tensor], Tensor]] = []
        if self.crop_padding:
            steps.append(v2.RandomCrop(image_shape[1:], padding=self.crop_padding))
        if self.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose(steps) if steps else None


@dataclass(frozen=True)
class StrongAugmentation:
    """RandAugment (Cubuk et al. 2020), then a gray square at a random place (Cutout, DeVries and Taylor 2017).

    None of the operations mirrors an image, so they are as fit for digits as for photographs.

    Attributes:
        n_operations: operations of RandAugment on each image.
        magnitude: of each operation, in 0 .. 30.
        cutout: largest share of the image that the square covers, in [0, 1), but for its side's rounding to pixels;
            0 for none.
    """

    n_operations: int = 2
    magnitude: int = 10
    cutout: float = 0.25

    def __post_init__(self) -> None:
        if self.n_operations < 0:
            raise ValueError(f"n_operations: expected an integer >= 0; got {self.n_operations}")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude: expected an integer in 0 .. 30; got {self.magnitude}")
        if not 0 <= self.cutout < 1:
            raise ValueError(f"cutout: expected a share of the image in [0, 1); got {self.cutout}")

    def transform(self, weak: Augmentation, image_shape: ImageShape) -> Callable[[Tensor], Tensor]:
        """The function that changes an image (C, H, W) by the weak augmentation, and strongly after it."""
        first = weak.transform(image_shape)
        steps: list[Callable[[Tensor], Tensor]] = [] if first is None else [first]
        steps.append(v2.RandAugment(self.n_operations, self.magnitude))
        if self.cutout:
            steps.append(v2.RandomErasing(p=1.0, scale=(0.02, self.cutout), ratio=(1.0, 1.0), value=0.5))
        return v2.Compose(steps)
