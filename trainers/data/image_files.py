"""Image files as labelled images: decoded when read, or once; checked before any is used."""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import BinaryIO

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from trainers.data.errors import DataError, UnreadableImagesError, first_few
from trainers.data.formats import FORMATS
from trainers.data.images import ImageArray, ImageShape, LabelledImages
from trainers.data.packed import content
from trainers.data.pixels import PLAIN_MODES, PixelError, as_unit, check_depth, standard_mode, to_tensor
from trainers.data.progress import with_progress
from trainers.data.resize import DEFAULT_RESIZE, Resize

Sample = tuple[str, int]
"""The path of an image file and its label."""

MAX_PIXELS = 2**27  # a few bytes can declare any size: larger images are not decoded
SHOWN = 3  # files that are named, of those left out
_MANY_FILES = 1000  # whose progress is shown
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12


log = logging.getLogger(__name__)


class ImageFiles(LabelledImages):
    """Labelled images decoded from their files each time they are read."""

    def __init__(
        self,
        samples: Sequence[Sample],
        image_shape: ImageShape,
        class_names: Sequence[str] = (),
        resize: Resize = DEFAULT_RESIZE,
    ) -> None:
        self.paths: list[str] = [path for path, _ in samples]
        self.targets = torch.tensor([label for _, label in samples], dtype=torch.long)
        self.image_shape = image_shape
        self.class_names = list(class_names)
        self.resize = resize

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = decode(self.paths[index], self.image_shape, self.resize)
        return as_unit(image), int(self.targets[index])


def read_files(
    lists: Mapping[str, Sequence[Sample]],
    split: str,
    where: str,
    image_shape: ImageShape,
    class_names: Sequence[str] = (),
    *,
    resize: Resize = DEFAULT_RESIZE,
    cache: bool = False,
    skip_unreadable: bool = False,
    held_out: Collection[str] = (),
) -> LabelledImages:
    """Make the images of a split out of its files, all of them checked before any is used.

    Args:
        lists: for each split its files.
        split: the one wanted.
        where: the folder or list that names the files, for the error.
        image_shape, resize: see ``decode``.
        class_names: one for each class.
        cache: decode once and keep the bytes in memory.
        skip_unreadable: leave out files that can't be decoded instead of raising.
        held_out: those of the split that are not for training, see ``LabelledImages``; none leaves it open.

    Raises:
        UnreadableImagesError: some files can't be decoded.
    """
    samples = list(lists[split])
    images, damaged = _decode_all(samples, image_shape, resize) if cache else (None, _damaged(samples))
    if damaged and not (skip_unreadable and len(damaged) < len(samples)):
        # The other split may be damaged too: one error names all there is to repair.
        others = [sample for name, listed in lists.items() if name != split for sample in listed]
        raise UnreadableImagesError(where, damaged | _damaged(others), len(samples) + len(others))
    if damaged:
        log.warning(
            "%s: %d of %d image files can't be read and are left out: %s. The first: %s",
            where, len(damaged), len(samples), first_few(list(damaged), SHOWN), next(iter(damaged.values())),
        )  # fmt: skip
    samples = [sample for sample in samples if sample[0] not in damaged]
    found: LabelledImages = ImageFiles(samples, image_shape, class_names, resize)
    if images is not None:
        found = ImageArray(images, found.targets, class_names)
    if held_out:
        apart = set(held_out)
        found.held_out = torch.tensor([i for i, (path, _) in enumerate(samples) if path in apart], dtype=torch.long)
    found.left_out = damaged
    found.paths = [path for path, _ in samples]
    return found


class TooManyPixelsError(ValueError):
    """An image that is larger than is decoded."""


@contextmanager
def open_image(source: str | BinaryIO, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image file, or the content of one; DataError where it is none of `FORMATS`, too large or damaged."""
    name = source if isinstance(source, str) else "the image"
    opened: str | BinaryIO = source
    try:
        opened = content(source) if isinstance(source, str) else source
        with Image.open(opened, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise TooManyPixelsError(
                    f"expected at most {max_pixels:,} pixels; got {width:,} x {height:,} = {width * height:,}: scale "
                    "the image down"
                )
            check_depth(image)
            yield image
    except PixelError as error:
        raise DataError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        expected = f"expected an image, {', '.join(FORMATS)}"
        raise DataError(f"{name} can't be decoded: {expected}; got {_what_else(opened)}.") from error
    except FileNotFoundError as error:
        raise DataError(f"{name} can't be read: {_what_is_missing(name)}.") from error
    except Exception as error:  # what Pillow's readers trip over in a damaged file can be anything
        raise DataError(f"{name} can't be decoded: {error or type(error).__name__}. Repair or remove it.") from error


def _what_is_missing(name: str) -> str:
    if os.path.islink(name):
        target = os.readlink(name)
        return f"expected a file; got a link to {target}, which does not exist: remove the link, or put the file there"
    return "expected a file; got none of this name: remove it from what is read, or put the file there"


def _what_else(opened: str | BinaryIO) -> str:
    """What is there in place of an image that can be read, and what to do."""
    with open(opened, "rb") if isinstance(opened, str) else nullcontext(opened) as file:
        file.seek(0)
        start = file.read(12)
    if not start:
        return "an empty file: replace or remove it"
    if start[4:8] == b"ftyp" and start[8:] in _HEIC_BRANDS and "HEIF" not in FORMATS:
        return "HEIC: pip install pillow-heif, or convert it"
    return "a file that is not an image, is damaged, or is of another format: remove, repair or convert it"


def decode(
    source: str | BinaryIO,
    image_shape: ImageShape,
    resize: Resize = DEFAULT_RESIZE,
    max_pixels: int = MAX_PIXELS,
    on_size: Callable[[int, int], None] = lambda height, width: None,
) -> Tensor:
    """Read an image file, scale it, and crop it at the centre.

    Args:
        source: the file's path, which may lie in a packed file, or its content.
        image_shape: (C, H, W) wanted; C = 1 reads it as gray.
        max_pixels: largest width times height; the file's header says so before a pixel is decoded.
        on_size: called with the file's own height and width, once it is decoded.

    Returns:
        (C, H, W): uint8, or float32 in [0, 1] where the file has more than 8 bits; see `trainers.data.pixels`.

    Raises:
        DataError: it can't be decoded, or its numbers say nothing of what is black and white.
    """
    channels, height, width = image_shape
    with open_image(source, max_pixels) as image:
        # Pillow's own copies would triple the memory of a large image.
        own = image.height, image.width
        ImageOps.exif_transpose(image, in_place=True)
        pixels = to_tensor(resize(standard_mode(image, channels), height, width), channels)
    on_size(*own)
    return pixels


def why_unreadable(path: str) -> str:
    """Why an image file can't be used; empty where it can. Pixels are decoded only where there is no cheaper check."""
    try:
        with open_image(path) as image:
            kind = image.format
            if image.mode not in PLAIN_MODES:
                standard_mode(image, 1)
            elif kind == "PNG":
                image.verify()  # checks every chunk's checksum
            elif kind != "JPEG" or not _ends_with(path, b"\xff\xd9"):
                image.load()
    except DataError as error:
        return str(error)
    return ""


def _ends_with(path: str, marker: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(marker), os.SEEK_END)
        return file.read() == marker


def _damaged(samples: list[Sample]) -> dict[str, str]:
    found = {
        path: why_unreadable(path)
        for path, _ in with_progress(samples, "checking images", hidden=len(samples) < _MANY_FILES)
    }
    return {path: reason for path, reason in found.items() if reason}


def _decode_all(samples: list[Sample], shape: ImageShape, resize: Resize) -> tuple[Tensor, dict[str, str]]:
    images = torch.empty((len(samples), *shape), dtype=torch.uint8)
    damaged: dict[str, str] = {}
    for i, (path, _) in enumerate(with_progress(samples, "decoding images", hidden=len(samples) < _MANY_FILES)):
        try:
            image = decode(path, shape, resize)
        except DataError as error:
            damaged[path] = str(error)
            continue
        if image.is_floating_point() and not images.is_floating_point():  # the first of more than 8 bits
            images = as_unit(images)
        images[i - len(damaged)] = as_unit(image) if images.is_floating_point() else image
    return images[: len(samples) - len(damaged)], damaged
