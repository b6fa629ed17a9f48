"""What a model's own configuration says of the images that it takes."""

from typing import NamedTuple


class Declared(NamedTuple):
    """Preprocessing that a library declares for a model."""

    image_shape: list[int]  # (C, H, W)
    mean: list[float]  # of each channel, in pixel values of [0, 1]
    std: list[float]
    crop_share: float  # this and the next two: see `trainers.data.resize.Resize`
    interpolation: str
    keep_ratio: bool
    source: str  # where it stands, in words


def share_of(size: int, scaled: int) -> float:
    """The share of `scaled` pixels that a crop of `size` keeps, at most 1."""
    return min(1.0, size / scaled)


def synonyms(described: str) -> list[str]:
    """The names in a list of them, and the list: "tench, Tinca tinca" is how ImageNet calls a class."""
    return [*(name.strip() for name in described.split(",")), described]
