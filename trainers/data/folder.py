"""Folders of image files."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, has_file_allowed_extension, make_dataset

from trainers.data.errors import DataError, DataNotFoundError, UnreadableImagesError
from trainers.data.images import (
    SPLITS,
    UNKNOWN_LABEL,
    ImageArray,
    ImageShape,
    LabelledImages,
    as_image_shape,
    check_split,
)

Sample = tuple[str, int]
"""The path of an image file and its label."""

# What Pillow raises on a damaged file depends on the format; DecompressionBombError guards
# against absurd sizes.
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_MANY_FILES = 1000


class ImageFiles(LabelledImages):
    """Labelled images decoded from their files each time they are read."""

    def __init__(self, samples: Sequence[Sample], image_shape: ImageShape, class_names: Sequence[str] = ()) -> None:
        self.paths = [path for path, _ in samples]
        self.targets = torch.tensor([label for _, label in samples], dtype=torch.long)
        self.image_shape = image_shape
        self.class_names = list(class_names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        try:
            image = decode(path, self.image_shape)
        except _READ_ERRORS as error:  # the check reads most formats' structure, not each pixel
            raise DataError(f"{path} can't be decoded: {error}. Repair or remove it.") from error
        return image.float().div_(255), int(self.targets[index])


def image_folder(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    image_shape: Sequence[int],
    test_share: float = 0.2,
    seed: int = 0,
    cache: bool = False,
    skip_unreadable: bool = False,
) -> LabelledImages:
    """Load a folder of images.

    The list is sorted by class, then by path, as torchvision's ``ImageFolder`` sorts. Images are scaled until
    they cover the wanted size, then cropped at the centre. All files are checked before any is used.

    Args:
        root: a folder with ``train/`` and ``test/``, each of them with one folder for each class; or one
            folder of class folders, which is split by ``seed``; or, for the split "all", images at any depth.
        split: "train", "test", or "all" (every image, without classes: the labels are -1).
        image_shape: (C, H, W) of the images returned; C = 1 reads them as gray.
        test_share: share of the images in the test split where the folder has no splits of its own.
        seed: of that split. Keep it when only the run's seed changes, or a trained classifier has seen the
            test images.
        cache: decode once and keep the bytes in memory.
        skip_unreadable: leave out files that can't be decoded instead of raising.

    Raises:
        DataNotFoundError: no such folder, or no images in it.
        UnreadableImagesError: some files can't be decoded.
        DataError: the folder's layout is none of the above.
        ValueError: wrong split, image shape or share.
    """
    check_split(split, ("train", "test", "all"))
    shape = as_image_shape(image_shape)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got {test_share}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataNotFoundError(
            f"image folder: there is no folder {os.path.abspath(folder)}. Set root to the folder that holds the images."
        )
    class_names: list[str] = []
    if split == "all":
        lists = {split: _list_all(folder)}
    else:
        lists, class_names = _list_splits(folder, test_share, seed)
    samples = lists[split]
    if not samples:
        raise DataNotFoundError(
            f"image folder: no images ({split} split) in {os.path.abspath(folder)}. Set root to a folder "
            f"with files that end in {', '.join(IMG_EXTENSIONS)}."
        )
    images, damaged = _decode_all(samples, shape) if cache else (None, _damaged(samples))
    if damaged and not (skip_unreadable and len(damaged) < len(samples)):
        # The other split may be damaged too: one error names all there is to repair.
        others = [sample for name, listed in lists.items() if name != split for sample in listed]
        raise UnreadableImagesError(str(folder), damaged + _damaged(others), len(samples) + len(others))
    left_out = set(damaged)
    samples = [sample for sample in samples if sample[0] not in left_out]
    if images is None:
        return ImageFiles(samples, shape, class_names)
    return ImageArray(images, torch.tensor([label for _, label in samples]), class_names)


def decode(path: str, image_shape: ImageShape) -> Tensor:
    """Read an image file as uint8 (C, H, W), scaled to cover ``image_shape`` and cropped at the centre."""
    channels, height, width = image_shape
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).reshape(height, width, channels).permute(2, 0, 1).contiguous()


def is_readable(path: str) -> bool:
    """Tell whether an image file is whole, decoding its pixels only where the format has no cheaper check."""
    try:
        with Image.open(path) as image:
            kind = image.format
            if kind == "PNG":
                image.verify()  # checks every chunk's checksum
                return True
            if kind == "JPEG" and _ends_with(path, b"\xff\xd9"):
                return True
            image.load()
    except _READ_ERRORS:
        return False
    return True


def _ends_with(path: str, marker: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(marker), os.SEEK_END)
        return file.read() == marker


def _list_all(folder: Path) -> list[Sample]:
    paths = [os.path.join(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names]
    return [(path, UNKNOWN_LABEL) for path in sorted(paths) if has_file_allowed_extension(path, IMG_EXTENSIONS)]


def _list_splits(folder: Path, test_share: float, seed: int) -> tuple[dict[str, list[Sample]], list[str]]:
    present = [name for name in SPLITS if (folder / name).is_dir()]
    if len(present) == 1:
        raise DataError(
            f"{folder} holds {present[0]}/ alone: expected train/ and test/, or one folder of class folders"
        )
    if not present:
        names, labels = _classes(folder)
        samples = make_dataset(folder, labels, extensions=IMG_EXTENSIONS, allow_empty=True)
        return _divide(samples, test_share, seed), names
    names, labels = _classes(folder / "train")
    unknown = sorted(set(_classes(folder / "test")[0]) - set(names))
    if unknown:
        raise DataError(f"{folder / 'test'} holds classes that {folder / 'train'} lacks: {', '.join(unknown)}")
    lists = {name: make_dataset(folder / name, labels, extensions=IMG_EXTENSIONS, allow_empty=True) for name in SPLITS}
    return lists, names


def _classes(folder: Path) -> tuple[list[str], dict[str, int]]:
    try:
        return find_classes(folder)
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no class folders: expected one folder of images for each class") from error


def _divide(samples: list[Sample], test_share: float, seed: int) -> dict[str, list[Sample]]:
    n_test = round(len(samples) * test_share)
    if not 0 < n_test < len(samples):
        raise DataError(f"{len(samples)} images are too few to split with test_share={test_share}")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    chosen = {"train": order[n_test:], "test": order[:n_test]}
    return {name: [samples[i] for i in indices.sort().values.tolist()] for name, indices in chosen.items()}


def _damaged(samples: list[Sample]) -> list[str]:
    return [path for path, _ in _with_progress(samples, "checking images") if not is_readable(path)]


def _decode_all(samples: list[Sample], shape: ImageShape) -> tuple[Tensor, list[str]]:
    images = torch.empty((len(samples), *shape), dtype=torch.uint8)
    damaged: list[str] = []
    for i, (path, _) in enumerate(_with_progress(samples, "decoding images")):
        try:
            images[i - len(damaged)] = decode(path, shape)
        except _READ_ERRORS:
            damaged.append(path)
    return images[: len(samples) - len(damaged)], damaged


def _with_progress(samples: list[Sample], description: str) -> Iterable[Sample]:
    few = len(samples) < _MANY_FILES
    return track(samples, description, console=Console(stderr=True), transient=True, disable=few)
