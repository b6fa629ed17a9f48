"""Folders of image files."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torchvision.datasets.folder import find_classes, make_dataset

from trainers.data.download import download_into, not_found
from trainers.data.errors import DataError, DataNotFoundError
from trainers.data.formats import EXTENSIONS, is_image
from trainers.data.image_files import Sample, read_files
from trainers.data.images import SPLITS, UNKNOWN_LABEL, LabelledImages, as_image_shape, check_split
from trainers.data.resize import Resize

log = logging.getLogger(__name__)

HELD_OUT_FOLDERS = ("val", "valid", "validation")
_SPLIT_WORDS = {"train", "training", "test", "testing", *HELD_OUT_FOLDERS}


def image_folder(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    image_shape: Sequence[int],
    test_folder: str = "test",
    test_share: float = 0.2,
    seed: int = 0,
    crop_share: float = 1.0,
    interpolation: str = "bilinear",
    keep_ratio: bool = True,
    cache: bool = False,
    skip_unreadable: bool = False,
    download: Callable[[str], object] | None = None,
    download_root: str | os.PathLike[str] = "data",
    remedy: str = "Set root to the folder that holds the images.",
) -> LabelledImages:
    """Load a folder of images, sorted by class, then by path, as torchvision's ``ImageFolder`` sorts.

    Args:
        root: a folder with ``train/`` and ``test/``, each of them with one folder for each class, and if there is
            one, ``val/`` (or ``valid/``, ``validation/``), whose images join the split "train" as ``held_out``; or one
            folder of class folders, which is split by ``seed``; or, for the split "all", images at any depth.
        split: "train", "test", or "all" (every image, without classes: the labels are -1).
        image_shape, cache, skip_unreadable: see ``read_files``.
        test_folder: what ``test/`` is called, ``val`` for ImageNet.
        test_share: share of the images in the test split where the folder has no splits of its own.
        seed: of that split. Keep it when only the run's seed changes, or a trained classifier has seen the
            test images.
        crop_share, interpolation, keep_ratio: see ``Resize``.
        download: called with a folder to fill where there is no ``root``; None downloads nothing.
        download_root: where that folder's content is moved to; ``root`` must come to stand in it.
        remedy: what to do where the folder can't be had, for the error.

    Raises:
        DataNotFoundError: no such folder and no download, or no images in it.
        UnreadableImagesError: some files can't be decoded.
        DataError: the folder's layout is none of the above.
        ValueError: wrong split, image shape or share.
    """
    check_split(split, ("train", "test", "all"))
    shape = as_image_shape(image_shape)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a share between 0 and 1; got {test_share}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        if download is None:
            raise DataNotFoundError(
                f"image folder: expected a folder; got {os.path.abspath(folder)}, which does not exist. {remedy}"
            )
        reason = download_into(Path(download_root).expanduser(), download) or "the download holds no such folder"
        if not folder.is_dir():
            raise not_found("image folder", [folder], reason, remedy)
    if split != "test":
        _tell_left_out(folder)
    class_names: list[str] = []
    held_out: list[Sample] = []
    if split == "all":
        lists = {split: [(path, UNKNOWN_LABEL) for path in sorted(_files(folder)) if is_image(path)]}
    else:
        lists, held_out, class_names = _list_splits(folder, test_folder, test_share, seed)
        lists["train"] = lists["train"] + held_out
        if split == "train":
            _log_roles(folder, test_folder)
    samples = lists[split]
    if not samples:
        raise DataNotFoundError(
            f"image folder: expected files that end in {', '.join(EXTENSIONS)} ({split} split); got none in "
            f"{os.path.abspath(folder)}: set root to a folder with images"
        )
    images = read_files(
        lists,
        split,
        str(folder),
        shape,
        class_names,
        resize=Resize(crop_share, interpolation, keep_ratio),
        cache=cache,
        skip_unreadable=skip_unreadable,
        held_out=[path for path, _ in held_out] if split == "train" else (),
    )
    images.divided = split != "all" and not (folder / "train").is_dir()
    return images


def _files(folder: Path) -> Iterator[str]:
    """At any depth."""
    return (os.path.join(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)


def _tell_left_out(folder: Path) -> None:
    """Warn of files that are no images by their ending, which nothing else would tell."""
    others = sorted(
        path for path in _files(folder) if not os.path.basename(path).startswith(".") and not is_image(path)
    )
    if others:
        shown, endings = ", ".join(others[:3]), ", ".join(EXTENSIONS)
        log.warning("%s: %d files are left out: %s; images end in %s", folder, len(others), shown, endings)


def _list_splits(
    folder: Path, test_folder: str, test_share: float, seed: int
) -> tuple[dict[str, list[Sample]], list[Sample], list[str]]:
    """Images by split, those held out, and the classes."""
    places = dict(zip(SPLITS, ("train", test_folder), strict=True))
    present = [name for name in places.values() if (folder / name).is_dir()]
    if len(present) == 1:
        raise DataError(
            f"{folder}: expected train/ and {test_folder}/, or one folder of class folders; got {present[0]}/ alone: "
            "add the other, or name another folder for the test by data.source.test_folder=..."
        )
    if not present:
        labels = _classes(folder)
        if {name.lower() for name in labels} <= _SPLIT_WORDS:
            raise DataError(
                f"{folder}: expected train/ and {test_folder}/, or a folder for each class; got "
                f"{', '.join(f'{name}/' for name in labels)}: rename them"
            )
        return _divide(_listed(folder, labels), test_share, seed), [], list(labels)
    apart = [name for name in HELD_OUT_FOLDERS if name != test_folder and (folder / name).is_dir()]
    if len(apart) > 1:
        raise DataError(f"{folder}: expected one folder of held-out images; got {' and '.join(apart)}: keep one")
    labels = _classes(folder / "train")
    for name in (test_folder, *apart):
        unknown = sorted(_classes(folder / name).keys() - labels.keys())
        if unknown:
            raise DataError(
                f"{folder / name}: expected classes of {folder / 'train'}; got {', '.join(unknown)} as well: rename or "
                "remove these folders"
            )
    held_out = [sample for name in apart for sample in _listed(folder / name, labels)]
    if apart and not held_out:
        raise DataError(f"{folder / apart[0]}: expected images; got none: fill it, or remove it")
    return {split: _listed(folder / name, labels) for split, name in places.items()}, held_out, list(labels)


def _listed(folder: Path, labels: dict[str, int]) -> list[Sample]:
    return make_dataset(folder, labels, extensions=EXTENSIONS, allow_empty=True)


def _log_roles(folder: Path, test_folder: str) -> None:
    """Say which folder of a root with splits serves for what; nothing for one folder of class folders."""
    if not (folder / "train").is_dir():
        return
    folders = sorted(place.name for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    apart = next((name for name in HELD_OUT_FOLDERS if name in folders and name != test_folder), None)
    said = ["train/ for classifier and mixture" + ("" if apart else ", validation and calibration")]
    if apart:
        said.append(f"{apart}/ for calibration and model selection; data.calibration_every is not used")
    said.append(f"{test_folder}/ for evaluation")
    unused = [f"{name}/" for name in folders if name not in ("train", apart, test_folder)]
    log.info("%s: %s%s", folder, "; ".join(said), f"; not used: {', '.join(unused)}" if unused else "")


def _classes(folder: Path) -> dict[str, int]:
    """Names of the class folders, sorted, with their labels; a hidden folder (`.ipynb_checkpoints`) is no class."""
    try:
        names = [name for name in find_classes(folder)[0] if not name.startswith(".")]
    except FileNotFoundError:
        names = []
    if not names:
        raise DataError(
            f"{folder}: expected one folder of images for each class; got none: set data.root to such a folder"
        )
    return {name: label for label, name in enumerate(names)}


def _divide(samples: list[Sample], test_share: float, seed: int) -> dict[str, list[Sample]]:
    n_test = round(len(samples) * test_share)
    if not 0 < n_test < len(samples):
        raise DataError(
            f"test_share={test_share}: expected images on both sides; got {n_test} for the test of {len(samples)}: "
            "give more, or another test_share"
        )
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    chosen = {"train": order[n_test:], "test": order[:n_test]}
    return {name: [samples[i] for i in indices.sort().values.tolist()] for name, indices in chosen.items()}
