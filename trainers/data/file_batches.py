"""Image files of any number, decoded batch by batch as they are needed."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainers.data.errors import DataError
from trainers.data.image_files import decode
from trainers.data.images import ImageShape
from trainers.data.pixels import as_unit
from trainers.data.resize import DEFAULT_RESIZE, Resize


class FileBatch(NamedTuple):
    """A batch of image files."""

    images: Tensor  # (B, C, H, W) float32 in [0, 1]; NaN where a file can't be read, which a detector refuses
    paths: list[str]
    errors: list[str]  # why a file can't be read; empty where it can


@dataclass(eq=False, repr=False)
class FileBatches(Dataset[FileBatch]):
    """Batches of image files; for a DataLoader with `batch_size=None`, which then keeps nothing of each image."""

    paths: Sequence[str]
    image_shape: ImageShape  # that each is brought to, as `resize` says
    batch_size: int
    _: KW_ONLY
    first: int = 0  # how many images to leave out at the beginning
    resize: Resize = DEFAULT_RESIZE

    def __len__(self) -> int:
        return -(-(len(self.paths) - self.first) // self.batch_size)

    def __getitem__(self, index: int) -> FileBatch:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        start = self.first + index * self.batch_size
        paths = list(self.paths[start : start + self.batch_size])
        images = torch.empty(len(paths), *self.image_shape)
        errors = [""] * len(paths)
        for i, path in enumerate(paths):
            try:
                images[i] = as_unit(decode(path, self.image_shape, self.resize))
            except DataError as error:
                images[i], errors[i] = torch.nan, str(error)
        return FileBatch(images, paths, errors)
