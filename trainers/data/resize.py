"""How an image of any size becomes one of the size that a classifier takes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image, ImageOps

from gmm_torch.checks import check_choice

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclass(frozen=True)
class Resize:
    """Scale an image to (H, W) / `crop_share`, then crop (H, W) at the centre.

    Attributes:
        crop_share: the centre that is kept of each side, above 0 and at most 1: 224 / 256 = 0.875 is the usual one for
            ImageNet, 1 keeps all of a square image.
        interpolation: one of `INTERPOLATIONS`, Pillow's, with antialiasing.
        keep_ratio: scale until the size is covered and crop what stands over; False: stretch to the size.

    Raises:
        ValueError: one of them is out of range.
    """

    crop_share: float = 1.0
    interpolation: str = "bilinear"
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share: expected a share above 0 and at most 1; got {self.crop_share}")
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)

    def __call__(self, image: Image.Image, height: int, width: int) -> Image.Image:
        """The image, of any mode that Pillow scales, at (height, width) pixels."""
        size = (round(width / self.crop_share), round(height / self.crop_share))
        if image.size != size:
            method = Image.Resampling[self.interpolation.upper()]
            image = ImageOps.fit(image, size, method) if self.keep_ratio else image.resize(size, method)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        return image.crop((left, top, left + width, top + height))


DEFAULT_RESIZE = Resize()


def resize_of(source: Mapping[str, Any] | None) -> Resize | None:
    """As a node `data.source` has it; None where its images have one size."""
    given = {field.name: source[field.name] for field in fields(Resize) if field.name in source} if source else {}
    return Resize(**given) if given else None
