"""The paths of the images to score."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import overload

from PIL import Image

from trainers.data.errors import DataError, DataNotFoundError
from trainers.data.formats import EXTENSIONS, is_image
from trainers.data.packed import PACKED, SEPARATOR, UNREAD, is_packed, packed_paths

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


def sources_of(source: str | Sequence[str]) -> list[str]:
    """One as a list; several as they are."""
    return [source] if isinstance(source, str | os.PathLike) else list(source)


def image_paths(
    source: str | Sequence[str], without: Iterable[str | os.PathLike[str]] = (), column: str | None = None
) -> Paths:
    """The images of a folder, at any depth; of a text file with one path a line; of a packed file; one image file.

    Packed are a shard of WebDataset (tar) and a table (Parquet, Arrow), see `trainers.data.packed`; a folder that holds
    nothing but such files stands for all of them.

    The order is always the same: folder by folder, each by name; lists as they stand. Paths in a list are relative to
    where the program runs. Every file of a folder counts, whatever it is called: one that is no image is told as such.
    Only hidden files and folders (a name that begins with a dot) do not, unless they end as images do.

    Args:
        source: one, or several, one after another.
        without: files and folders that are left out of the folders, such as those that the run itself writes.
        column: of tables, see `packed_paths`.

    Raises:
        DataNotFoundError: no such file or folder, or nothing in it.
        DataError: a packed file is damaged, or of a kind that is not read.
    """
    sources = sources_of(source)
    own = {os.path.realpath(each) for each in without}
    paths = Paths(path for each in sources for path in _images_of(os.path.expanduser(each), own, column))
    if not paths:
        where = ", ".join(os.path.abspath(each) for each in sources)
        raise DataNotFoundError(
            f"input: expected files, or lines that name them; got none in {where}: set another input"
        )
    return paths


def read_by_folder(source: str | Sequence[str], paths: Iterable[str]) -> bool:
    """Whether paths of `image_paths` lie in several folders that were read one after another."""
    given = map(os.path.expanduser, sources_of(source))
    walked = tuple(os.path.join(each, "") for each in given if os.path.isdir(each))
    folders = {os.path.dirname(path) for path in paths if path.startswith(walked) and SEPARATOR not in path}
    return len(folders) > 1


def _images_of(source: str, own: Set[str], column: str | None) -> Iterator[str]:
    if os.path.isdir(source):
        # Others are worth listing before any is used only where the first is packed.
        files = list(_below(source, set(), own)) if is_packed(next(_below(source, set(), own), "")) else []
        if files and all(map(is_packed, files)):
            for file in files:
                yield from packed_paths(file, column)
        else:
            yield from _below(source, set(), own)
    elif not os.path.exists(source):
        raise DataNotFoundError(
            f"input: expected a file or a folder; got {os.path.abspath(source)}, which does not exist: check the path"
        )
    elif is_packed(source):
        yield from packed_paths(source, column)
    elif source.lower().endswith(UNREAD):
        raise DataError(
            f"input: expected a folder, an image, a text file with one path a line, or {', '.join(PACKED)}; got "
            f"{source}: unpack it, or pack the images into one of these"
        )
    elif _is_list(source):
        yield from _lines(source)
    else:
        yield source


def _below(folder: str, above: set[tuple[int, int]], own: Set[str]) -> Iterator[str]:
    """Files of a folder, then of its folders; a link to a folder above is not followed."""
    found = os.stat(folder)
    place = (found.st_dev, found.st_ino)
    if place in above or os.path.realpath(folder) in own:
        return
    with os.scandir(folder) as listed:
        entries = sorted((entry.name, entry.is_dir()) for entry in listed)
    for name, is_folder in entries:
        counts = not name.startswith(".") or is_image(name)
        if not is_folder and counts and os.path.realpath(path := os.path.join(folder, name)) not in own:
            yield path
    for name, is_folder in entries:
        if is_folder and not name.startswith("."):
            yield from _below(os.path.join(folder, name), above | {place}, own)


def _is_list(source: str) -> bool:
    """Whether a file holds paths: text, by its content, that does not end as an image does."""
    if source.lower().endswith((*Image.registered_extensions(), *EXTENSIONS)):
        return False
    with open(source, "rb") as file:
        return b"\0" not in file.read(_PROBE)


def _lines(source: str) -> Iterator[str]:
    with open(source, "rb") as file:
        for line in file:
            path = os.fsdecode(line.rstrip(b"\r\n"))
            if path.strip():
                yield path
