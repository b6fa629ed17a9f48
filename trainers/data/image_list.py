"""Images named by a list file, as the benchmark OpenOOD names them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from trainers.data.download import not_found
from trainers.data.errors import DataError
from trainers.data.image_files import Sample, read_files
from trainers.data.images import LabelledImages, as_image_shape, check_split
from trainers.data.resize import Resize

REMEDY = (
    "Fetch them with scripts/download/download.sh of github.com/Jingkang50/OpenOOD, and set paths.data to the folder "
    "that holds benchmark_imglist/ and the images."
)


def image_list(
    root: str | os.PathLike[str],
    split: str = "all",
    *,
    lists: Mapping[str, str],
    folder: str,
    image_shape: Sequence[int],
    held_out_every: int | None = None,
    crop_share: float = 1.0,
    interpolation: str = "bilinear",
    keep_ratio: bool = True,
    cache: bool = False,
    skip_unreadable: bool = False,
    remedy: str = REMEDY,
    seed: int = 0,
) -> LabelledImages:
    """Load the images that list files name, one line each: a path, a blank, a label.

    With ``held_out_every``, the list "held_out" joins the split "train" at every so many-th place, in its order; the
    training list fills the places between, thinned evenly where it is longer than they are, cut where it is shorter.
    A data module whose ``calibration_every`` is the same number thereby calibrates on held-out images alone: on images
    that a classifier trained elsewhere, on the training list, has not seen.

    Args:
        root: the folder of the benchmark.
        split: "train", "test", or "all", whose images have no classes: their labels are -1.
        lists: for each split the path of its list file below ``root``.
        folder: below ``root``, where the paths in the lists begin.
        image_shape, cache, skip_unreadable: see ``read_files``.
        held_out_every: at least 2, or None.
        crop_share, interpolation, keep_ratio: see ``Resize``.
        seed: as every loader of an out-of-distribution set takes it; a list leaves nothing to chance.
        remedy: what to do where a list or the images can't be found, for the error.

    Returns:
        classes are named after the folder that holds their images, or by their number where they share one.

    Raises:
        DataNotFoundError: no such list, or none of its images are there.
        UnreadableImagesError: some of them can't be read.
        DataError: a list holds something else.
        ValueError: wrong split or image shape, or ``held_out_every`` < 2.
    """
    check_split(split, sorted(set(lists) - {"held_out"}))
    shape = as_image_shape(image_shape)
    if held_out_every is not None and held_out_every < 2:
        raise ValueError(f"held_out_every: expected an integer >= 2 or null for none; got {held_out_every}")
    place = Path(root).expanduser()
    samples = _read_list(place, lists[split], folder, remedy, labelled=split != "all")
    if split == "train" and held_out_every is not None:
        samples = _woven(samples, _read_list(place, lists["held_out"], folder, remedy), held_out_every)
    names = [] if split == "all" else _class_names(_read_list(place, lists["test"], folder, remedy))
    return read_files(
        {split: samples},
        split,
        str(place / lists[split]),
        shape,
        names,
        resize=Resize(crop_share, interpolation, keep_ratio),
        cache=cache,
        skip_unreadable=skip_unreadable,
    )


def _read_list(root: Path, name: str, folder: str, remedy: str, labelled: bool = True) -> list[Sample]:
    path, images = root / name, root / folder
    missing = [each for each, there in ((path, path.is_file()), (images, images.is_dir())) if not there]
    if missing:
        raise not_found(f"image list {Path(name).name}", missing, "there is no download", remedy)
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        relative, _, label = line.strip().rpartition(" ")
        if not relative or (labelled and not label.isdecimal()):
            raise DataError(f"{path}, line {number}: expected a path, a blank and a label >= 0; got {line!r}")
        samples.append((str(images / relative), int(label) if labelled else -1))
    if not samples:
        raise DataError(f"{path}: expected a line for each image; got none: fetch it again")
    if not Path(samples[0][0]).exists():
        raise not_found(f"images of {Path(name).name}", [Path(samples[0][0]).parent], "there is no download", remedy)
    return samples


def _woven(training: list[Sample], held_out: list[Sample], every: int) -> list[Sample]:
    """One held-out image, then ``every`` - 1 training images, and so on."""
    woven: list[Sample] = []
    between = every - 1
    n_blocks = min(len(held_out), len(training) // between)
    if n_blocks == 0:
        raise DataError(
            f"held_out_every={every}: expected at least {between} training images and one held-out image; got "
            f"{len(training)} and {len(held_out)}: choose a smaller held_out_every, or null for none"
        )
    chosen = torch.linspace(0, len(training) - 1, n_blocks * between, dtype=torch.float64).round().long().tolist()
    for i in range(n_blocks):
        woven += [held_out[i], *(training[j] for j in chosen[i * between : (i + 1) * between])]
    return woven


def _class_names(samples: list[Sample]) -> list[str]:
    found: dict[int, str] = {}
    for path, label in samples:
        found.setdefault(label, Path(path).parent.name)
    names = [found.get(label, str(label)) for label in range(max(found) + 1)]
    return names if len(set(names)) == len(names) else [str(label) for label in range(len(names))]
