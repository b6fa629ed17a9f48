"""Tiny-ImageNet in the layout that its publisher gives it."""

import os
from functools import partial
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from trainers.data.download import fetch_archive, found_or_downloaded
from trainers.data.errors import DataError
from trainers.data.image_files import Sample, read_files
from trainers.data.images import LabelledImages, as_image_shape, check_split

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ANNOTATIONS = Path("val") / "val_annotations.txt"


def tiny_imagenet(
    root: str | os.PathLike[str] = "data", split: str = "train", *, download: bool = True, cache: bool = True
) -> LabelledImages:
    """Load 100,000 training or 10,000 validation images of 200 classes, 64x64 (Stanford CS231n).

    A copy is the publisher's folder at ``<root>/tiny-imagenet-200`` or at ``root``. Its test images have no labels;
    the validation images serve as the test split.

    Raises:
        DataNotFoundError: no copy and no download.
        DataError: the folder is not what it should be.
    """
    check_split(split)
    place = Path(root).expanduser()
    searched = [place / FOLDER, place]
    folder = found_or_downloaded(
        f"Tiny-ImageNet ({split} split)",
        lambda: _find(searched),
        partial(fetch_archive, url=URL, filename=f"{FOLDER}.zip", md5=MD5) if download else None,
        place,
        searched,
        f"Unpack {URL} there, or set root to its folder.",
    )
    names, labels = find_classes(str(folder / "train"))
    if split == "train":
        samples = make_dataset(str(folder / "train"), labels, extensions=IMG_EXTENSIONS)
    else:
        samples = _annotated(folder, labels)
    return read_files({split: samples}, split, str(folder), as_image_shape((3, 64, 64)), names, cache=cache)


def _find(folders: list[Path]) -> Path | None:
    return next((each for each in folders if (each / "train").is_dir() and (each / ANNOTATIONS).is_file()), None)


def _annotated(folder: Path, labels: dict[str, int]) -> list[Sample]:
    path = folder / ANNOTATIONS
    samples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in labels:
            raise DataError(f"{path}: expected a file, a tab and a class of train/; got {line!r}: unpack it again")
        samples.append((str(path.parent / "images" / name), labels[wnid]))
    return samples
