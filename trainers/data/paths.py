"""Where the images to score are."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from trainers.data.errors import DataError, DataNotFoundError

_PROBE = 4096  # bytes of a file that tell text from anything else


class Paths(Sequence[str]):
    """Paths as one run of bytes: half of what a list takes, and none of it is copied into the loader's workers."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])
        for path in paths:
            self._bytes += os.fsencode(path)
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """A path, or a list of those in a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = index + len(self) if index < 0 else index
        if not 0 <= i < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        return os.fsdecode(bytes(self._bytes[self._ends[i] : self._ends[i + 1]]))


def image_paths(source: str | Sequence[str]) -> Paths:
    """The images of a folder, at any depth; of a text file with one path a line; one image file; or several of these.

    The order is always the same: folder by folder, each by name; lists as they stand. Paths in a list are relative to
    where the program runs. Files of a folder count by their ending, files of a list whatever they are called.

    Raises:
        DataNotFoundError: no such file or folder, or no images in it.
        DataError: a file that is neither an image by its ending nor text.
    """
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    paths = Paths(path for each in sources for path in _images_of(os.path.expanduser(each)))
    if not paths:
        where = ", ".join(os.path.abspath(each) for each in sources)
        raise DataNotFoundError(f"input: no images in {where}: expected files that end in {', '.join(IMG_EXTENSIONS)}")
    return paths


def _images_of(source: str) -> Iterator[str]:
    if os.path.isdir(source):
        yield from _below(source, set())
    elif not os.path.exists(source):
        raise DataNotFoundError(f"input: there is no file or folder {os.path.abspath(source)}")
    elif has_file_allowed_extension(source, IMG_EXTENSIONS):
        yield source
    else:
        yield from _lines(source)


def _below(folder: str, above: set[tuple[int, int]]) -> Iterator[str]:
    """Images of a folder, then of its folders; a link to a folder above is not followed."""
    found = os.stat(folder)
    place = (found.st_dev, found.st_ino)
    if place in above:
        return
    with os.scandir(folder) as listed:
        entries = sorted((entry.name, entry.is_dir()) for entry in listed)
    for name, is_folder in entries:
        if not is_folder and has_file_allowed_extension(name, IMG_EXTENSIONS):
            yield os.path.join(folder, name)
    for name, is_folder in entries:
        if is_folder:
            yield from _below(os.path.join(folder, name), above | {place})


def _lines(source: str) -> Iterator[str]:
    with open(source, "rb") as file:
        if b"\0" in file.read(_PROBE):
            raise DataError(
                f"input: {os.path.abspath(source)} is neither a folder nor text with one path a line, and an image "
                f"ends in {', '.join(IMG_EXTENSIONS)}"
            )
        file.seek(0)
        for line in file:
            path = os.fsdecode(line.rstrip(b"\r\n"))
            if path.strip():
                yield path
