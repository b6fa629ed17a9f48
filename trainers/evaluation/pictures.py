"""Images of a run as arrays of bytes, for pages."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset


def pictures(images: Mapping[str, Dataset[Any]], rows: Iterable[int]) -> dict[int, Any]:
    """The images of the chosen rows as (H, W, C) uint8."""
    return {row: picture(image) for row, image in items(images, rows).items()}


def picture(image: Tensor) -> Any:
    """An image (C, H, W) in [0, 1] as (H, W, C) uint8."""
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


def items(images: Mapping[str, Dataset[Any]], rows: Iterable[int]) -> dict[int, Tensor]:
    """The images of the chosen rows of the table, in its order, as the classifier gets them."""
    found: dict[int, Tensor] = {}
    chosen, start = sorted(rows), 0
    for dataset in images.values():
        n = len(dataset)  # type: ignore[arg-type]
        found |= {row: dataset[row - start][0] for row in chosen if start <= row < start + n}
        start += n
    return found
