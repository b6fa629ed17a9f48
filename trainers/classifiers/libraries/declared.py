"""What a model's own configuration says of the images that it takes."""

from typing import NamedTuple


class Declared(NamedTuple):
    """Preprocessing that a library declares for a model.

    Attributes:
        image_shape: (C, H, W).
        mean, std: of each channel, in pixel values of [0, 1].
        crop_share, interpolation, keep_ratio: see `trainers.data.resize.Resize`.
        source: where it stands, in words.
    """

    image_shape: list[int]
    mean: list[float]
    std: list[float]
    crop_share: float
    interpolation: str
    keep_ratio: bool
    source: str


def share_of(size: int, scaled: int) -> float:
    """The share of `scaled` pixels that a crop of `size` keeps, at most 1."""
    return min(1.0, size / scaled)


def synonyms(described: str) -> list[str]:
    """The names in a list of them, and the list: "tench, Tinca tinca" is how ImageNet calls a class."""
    return [*(name.strip() for name in described.split(",")), described]
