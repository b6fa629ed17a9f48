"""Images packed into files: shards of WebDataset (tar), and tables (Parquet, Arrow) of bytes or of paths.

An image in such a file has a path of its own, which any process opens that sees the file: `shard.tar::cat/0001.jpg`,
and `table.parquet::image/17`, the column and the row.
"""

import io
import os
import posixpath
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple

from trainers.data.errors import DataError
from trainers.data.formats import is_image

SEPARATOR = "::"
MOST_LINKS = 40  # from one to the next, as Linux follows them; those in a circle end nowhere
PACKED = (".tar", ".parquet", ".arrow", ".feather")
UNREAD = (
    *(".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".lz4", ".zip", ".7z", ".rar"),
    *(".tfrecord", ".tfrecords", ".rec", ".mds", ".lmdb", ".mdb", ".h5", ".hdf5", ".npy", ".npz", ".orc", ".avro"),
)
USUAL_COLUMNS = ("image", "path")
_DAMAGE = (OSError, ValueError, tarfile.TarError)  # PyArrow's own errors are of the second kind


def is_packed(path: str) -> bool:
    """Whether a file's name says that it holds images or paths of them."""
    return path.lower().endswith(PACKED)


def _is_tar(path: str) -> bool:
    return path.lower().endswith(".tar")


def packed_paths(path: str, column: str | None = None) -> Iterator[str]:
    """The paths of the images in a packed file, in its order.

    Args:
        path: of the file.
        column: of a table: paths of image files (text), or image files (bytes, or a struct with the field `bytes`);
            None for the only such column, or for `image` or `path` among several.

    Raises:
        DataError: the file is damaged, or has no such column.
    """
    try:
        if _is_tar(path):
            yield from (f"{path}{SEPARATOR}{name}" for name in _members(path, _stamp(path)))
            return
        table = _table(path, _stamp(path))
    except _DAMAGE as error:
        raise DataError(f"input: {path} can't be read: {error}. Repair or remove it.") from error
    column = _column(table, path, column)
    if _holds(table.schema.field(column).type) == "paths":
        for group in range(len(table.ends)):
            for name in table.read(group, column).to_pylist():
                if not name:
                    raise DataError(
                        f"input: {path}: expected a path in every row of the column {column}; got none in one"
                    )
                yield name
    else:
        yield from (f"{path}{SEPARATOR}{column}/{row}" for row in range(table.ends[-1] if table.ends else 0))


def content(path: str) -> str | BinaryIO:
    """What to decode: the path itself, or the bytes of an image in a packed file; OSError or ValueError for none."""
    file, name = _split(path)
    if not file or os.path.lexists(path):
        return path
    if _is_tar(file):
        members = _members(file, _stamp(file))
        if name not in members:
            raise ValueError(f"expected a member {name} of {file}; there is none")
        if (place := members[name]) is None:
            raise ValueError(f"the member {name} of {file} is a link to what is not in it")
        offset, size = place
        with open(file, "rb") as archive:
            archive.seek(offset)
            return io.BytesIO(archive.read(size))
    column, _, row = name.rpartition("/")
    found = _cell(file, column, int(row))
    if isinstance(found, dict):  # as `datasets` packs images
        found = found["bytes"] or found.get("path")
    if not found:
        raise ValueError("expected the bytes of an image; the row has none")
    return found if isinstance(found, str) else io.BytesIO(found)


def _split(path: str) -> tuple[str, str]:
    """The packed file and what it holds under which name; two empty strings where a path names no packed file."""
    for found in re.finditer(SEPARATOR, path):  # folders may have it in their names
        if is_packed(path[: found.start()]):
            return path[: found.start()], path[found.end() :]
    return "", ""


def _stamp(path: str) -> tuple[int, int]:
    """What tells a file from another that was at the same place."""
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=2)
def _members(path: str, stamp: tuple[int, int]) -> dict[str, tuple[int, int] | None]:
    """Name -> place and size of the images in an archive; None for a link to what is not in it.

    No file stays open, which forked processes would share.
    """
    with tarfile.open(path, "r:") as archive:
        by_name = {member.name: member for member in archive}
    by_place = {posixpath.normpath(name): member for name, member in by_name.items()}
    places: dict[str, tuple[int, int] | None] = {}
    for name, member in by_name.items():
        if is_image(name):
            found = _followed(member, by_place)
            if found is None or found.isreg():
                places[name] = None if found is None else (found.offset_data, found.size)
    return places


def _followed(member: tarfile.TarInfo, by_place: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """What a member links to, or itself where it is no link; None where that is not in the archive."""
    found: tarfile.TarInfo | None = member
    for _ in range(MOST_LINKS):
        if found is None or not (found.islnk() or found.issym()):
            return found
        folder = posixpath.dirname(found.name) if found.issym() else ""
        found = by_place.get(posixpath.normpath(posixpath.join(folder, found.linkname)))
    return None


class _Table(NamedTuple):
    """A table on disk: its schema, where its groups of rows end, and (group, column) -> the values of a group."""

    schema: Any
    ends: list[int]
    read: Any


@lru_cache(maxsize=2)
def _table(path: str, stamp: tuple[int, int]) -> _Table:
    if find_spec("pyarrow") is None:
        raise DataError(f"input: {path} needs pyarrow: pip install -e '.[ray]'")
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.lower().endswith(".parquet"):
        file = pq.ParquetFile(path, memory_map=True)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]

        def read(group: int, column: str) -> Any:
            return file.read_row_group(group, columns=[column], use_threads=False).column(0)

        return _Table(file.schema_arrow, list(accumulate(sizes)), read)
    mapped = pa.memory_map(path)
    try:
        whole = pa.ipc.open_file(mapped).read_all()
    except pa.ArrowInvalid:  # the format for streams, which `datasets` writes
        mapped.seek(0)
        whole = pa.ipc.open_stream(mapped).read_all()
    return _Table(whole.schema, [whole.num_rows], lambda group, column: whole.column(column))


@lru_cache(maxsize=1)
def _group(path: str, stamp: tuple[int, int], column: str, group: int) -> Any:
    return _table(path, stamp).read(group, column)


def _cell(path: str, column: str, row: int) -> Any:
    stamp = _stamp(path)
    ends = _table(path, stamp).ends
    group = bisect_right(ends, row)
    return _group(path, stamp, column, group)[row - (ends[group - 1] if group else 0)].as_py()


def _holds(kind: Any) -> str | None:
    """What a column of a type holds: "paths", "images", or neither."""
    import pyarrow.types as of

    if of.is_dictionary(kind):
        kind = kind.value_type
    if of.is_string(kind) or of.is_large_string(kind):
        return "paths"
    if of.is_struct(kind):
        kind = next((field.type for field in kind if field.name == "bytes"), None)
    return "images" if kind is not None and (of.is_binary(kind) or of.is_large_binary(kind)) else None


def _column(table: _Table, path: str, column: str | None) -> str:
    fit = [field.name for field in table.schema if _holds(field.type)]
    if column is None:
        usual = [name for name in USUAL_COLUMNS if name in fit]
        column = fit[0] if len(fit) == 1 else next(iter(usual), None)
    if column is None or column not in fit:
        raise DataError(
            f"input: {path}: expected {'a column' if column is None else f'the column {column}, one'} of paths or of "
            f"image files; got {', '.join(f'{field.name} ({field.type})' for field in table.schema)}: set column=..."
        )
    return column
