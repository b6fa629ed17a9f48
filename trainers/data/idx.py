"""MNIST and its relatives: datasets in IDX files."""

import functools
import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torchvision
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from gmm_torch.checks import check_choice
from trainers.data.download import found_or_downloaded
from trainers.data.errors import DataError
from trainers.data.images import ImageArray, check_split

IDX_DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST")
EMNIST_SUBSETS = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
# MD5 of the unpacked labels: the relatives give their files the same names
LABEL_DIGESTS = {
    "a25bea736e30d166cdddb491f175f624": "MNIST",
    "27ae3e4e09519cfbb04c329615203637": "MNIST",
    "9018921c3c673c538a1fc5bad174d6f9": "FashionMNIST",
    "15d484375f8d13e6eb1aabb0c3f46965": "FashionMNIST",
}
MAX_BYTES = 2**30  # of a file, unpacked: a few gzipped bytes can stand for any number


def idx_images(
    name: str,
    root: str | os.PathLike[str] = "data",
    split: str = "train",
    *,
    subset: str | None = None,
    folders: Sequence[str] = (),
    download: bool = True,
) -> ImageArray:
    """Load one of torchvision's datasets in IDX files, from a local copy when there is one.

    A copy is the two files of the split, gzipped or not, in ``<root>/<name>/raw`` (torchvision's place), in
    ``<root>/<name>``, in ``root`` itself or in one of ``folders``. Copies are read in place and never written
    to. The relatives name their files alike: those that are known to be another's are passed over.

    Args:
        name: torchvision's class, one of `IDX_DATASETS`.
        root: the folder of datasets, or one that holds the IDX files; downloads go to torchvision's place under it.
        subset: of EMNIST, one of `EMNIST_SUBSETS`; None for the others.
        folders: other folders that may hold the IDX files.

    Raises:
        DataNotFoundError: no copy and no download.
        DataError: the files are not what they should be.
        ValueError: unknown name, subset or split.
    """
    check_split(split)
    check_choice("name", name, IDX_DATASETS)
    if subset not in (EMNIST_SUBSETS if name == "EMNIST" else (None,)):
        allowed = f"one of {', '.join(EMNIST_SUBSETS)}" if name == "EMNIST" else "null"
        raise ValueError(f"subset of {name}: expected {allowed}; got {subset!r}")
    dataset_class = getattr(torchvision.datasets, name)
    which: dict[str, str] = {} if subset is None else {"split": subset}
    stem = _stem(split, subset)
    place = Path(root).expanduser()
    searched = [place / name / "raw", place / name, place, *map(Path, folders)]
    files = found_or_downloaded(
        f"{name} ({split} split)",
        lambda: find_idx_files(searched, split, subset, name),
        functools.partial(dataset_class, download=True, **which) if download else None,
        place,
        searched,
        f"Put {stem}-images-idx3-ubyte and {stem}-labels-idx1-ubyte (.gz or not) into one of these folders, or set "
        "root to the folder that holds them.",
    )
    images = _read(files[0], read_image_file)
    targets = _read(files[1], read_label_file)
    if len(images) != len(targets):
        raise DataError(
            f"{files[1]}: expected {len(images)} labels, one for each image of {files[0]}; got {len(targets)}: fetch "
            "both again"
        )
    names = dataset_class.classes if subset is None else dataset_class.classes_split_dict[subset]
    if names[0] == "N/A":  # the labels of EMNIST's letters begin at one
        names, targets = names[1:], targets - 1
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= len(names):
        raise DataError(
            f"{files[1]}: expected labels of the {len(names)} classes of {name}, from 0; got {lowest} to {highest}: "
            "fetch it again"
        )
    upright = images if subset is None else images.transpose(1, 2)  # EMNIST keeps images on their side
    return ImageArray(upright[:, None], targets, names)


def find_idx_files(
    folders: Sequence[Path], split: str, subset: str | None = None, name: str | None = None
) -> tuple[Path, Path] | None:
    """The image file and the label file of a split from the first folder that holds both, or None.

    With a `name`, files that are known to be another dataset's do not count.
    """
    for folder in folders:
        images, labels = (
            next((path for path in _spellings(folder, _stem(split, subset), kind) if path.is_file()), None)
            for kind in ("images-idx3", "labels-idx1")
        )
        if images and labels and (name is None or published_in(labels) in (name, None)):
            return images, labels
    return None


def published_in(labels: Path) -> str | None:
    """The dataset whose labels these are, where their digest is known."""
    opened = gzip.open if labels.suffix == ".gz" else open
    try:
        with opened(labels, "rb") as file:
            start = file.read(2**20)  # more than any of those labels
    except (OSError, EOFError, zlib.error):
        return None  # whoever reads it next says so
    return LABEL_DIGESTS.get(hashlib.md5(start, usedforsecurity=False).hexdigest())


def _stem(split: str, subset: str | None) -> str:
    if subset is not None:
        return f"emnist-{subset}-{split}"
    return "train" if split == "train" else "t10k"


def _spellings(folder: Path, stem: str, kind: str) -> list[Path]:
    names = (f"{stem}-{kind}-ubyte", f"{stem}-{kind.replace('-', '.')}-ubyte")
    return [folder / (name + suffix) for name in names for suffix in ("", ".gz")]


def _read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    try:
        # torchvision reads plain files only, and the folder of a local copy is not ours to unpack into.
        with tempfile.TemporaryDirectory() as folder:
            plain = path
            if path.suffix == ".gz":
                plain = Path(folder) / path.stem
                with gzip.open(path) as packed, plain.open("wb") as unpacked:
                    while unpacked.tell() <= MAX_BYTES and (part := packed.read(2**20)):
                        unpacked.write(part)
            if plain.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            return reader(str(plain))
    # torchvision asserts on the header and lets the reshape of a short file fail.
    except (AssertionError, RuntimeError, ValueError, TypeError, KeyError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path}: expected an IDX file; got a damaged one ({type(error).__name__}: {error}): fetch it again"
        ) from error
