"""Downloading a dataset without leaving half of it behind."""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

from torchvision.datasets.utils import download_url

from trainers.data.errors import DataNotFoundError

Found = TypeVar("Found")


def not_found(what: str, searched: Sequence[Path], reason: str, remedy: str) -> DataNotFoundError:
    """The one-line error for a dataset that can't be had: why it was not downloaded, and what the reader can do."""
    folders = ", ".join(os.path.abspath(folder) for folder in dict.fromkeys(searched))
    in_a_line = " ".join(reason.split())
    in_a_line = in_a_line if len(in_a_line) <= 200 else f"{in_a_line[:197]}..."
    return DataNotFoundError(f"{what}: no local copy in {folders}, and {in_a_line}. {remedy}")


def found_or_downloaded(
    what: str,
    find: Callable[[], Found | None],
    fetch: Callable[[str], object] | None,
    root: Path,
    searched: Sequence[Path],
    remedy: str,
) -> Found:
    """What `find` finds, before or after a download.

    Args:
        what: the dataset and split, for the error.
        find: gives None where there is no intact copy.
        fetch, root: see `download_into`; None for no download.
        searched: the folders that `find` looks into.
        remedy: what the reader can do.

    Raises:
        DataNotFoundError: no intact copy and no download.
    """
    found, reason = find(), "download is off"
    if found is None and fetch is not None:
        reason = download_into(root, fetch) or "it is incomplete or damaged"
        found = find()
    if found is None:
        raise not_found(what, searched, reason, remedy)
    return found


def download_into(root: Path, fetch: Callable[[str], object]) -> str | None:
    """Let ``fetch`` write into a temporary folder, then move what it wrote into ``root``; None, or why it failed.

    The root is created when missing, and removed again when it was and the download fails.
    """
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
            fetch(folder)
            for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                target = root / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
    except (RuntimeError, OSError, EOFError, HTTPException, tarfile.TarError) as error:
        for folder_made in missing:
            if folder_made.is_dir() and not any(folder_made.iterdir()):
                folder_made.rmdir()
        return f"the download failed ({type(error).__name__}: {error})"
    return None


def fetch_archive(folder: str, *, url: str, filename: str, md5: str | None = None) -> None:
    """Download an archive of images and unpack it as the ending of its name says (.tar, .tar.gz, .zip).

    Raises:
        RuntimeError: the digest is another.
        OSError: the download fails, or the archive is damaged.
    """
    download_url(url, folder, filename, md5)
    archive = Path(folder) / filename
    # Of a zip, shutil leaves out members that point out of the folder, and knows no filter before Python 3.11.4.
    if archive.suffix == ".zip":
        shutil.unpack_archive(archive, folder)
    else:
        shutil.unpack_archive(archive, folder, filter="data")
    archive.unlink()
