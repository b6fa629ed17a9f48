"""Atomic writing of files: a reader only sees finished ones."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; replace `path` with it in one step when the block succeeds.

    The temporary name keeps the suffix, because some writers choose the format by it. Parent folders are created. When
    the block raises, the temporary file is removed and `path` is what it was before.

    Raises:
        FileNotFoundError: the block ended without writing the temporary file.
        IsADirectoryError: `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"expected the path of a file to write, got the folder {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # A folder of our own rather than mkstemp: the writer creates the file itself, so its mode follows the umask.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as folder:
        temporary = Path(folder) / target.name
        yield temporary
        os.replace(temporary, target)


def write_text(path: str | os.PathLike[str], text: str, errors: str = "strict") -> None:
    """Write a text file in UTF-8, whole or not at all, see `atomic_path`; for `errors` see `str.encode`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)
