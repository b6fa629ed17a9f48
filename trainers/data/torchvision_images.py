"""torchvision's datasets that fit in memory."""

import inspect
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision

from gmm_torch.checks import check_choice
from trainers.data.download import found_or_downloaded
from trainers.data.images import ImageArray, check_split

TORCHVISION_DATASETS = ("CIFAR10", "CIFAR100", "SVHN", "STL10", "USPS")


def torchvision_images(
    name: str, root: str | os.PathLike[str] = "data", split: str = "train", *, download: bool = True
) -> ImageArray:
    """Load one of torchvision's datasets, from a local copy when there is one.

    A copy is torchvision's own layout in ``root`` or in ``<root>/<name>``; torchvision checks its digests.

    Args:
        name: torchvision's class, one of `TORCHVISION_DATASETS`.
        root: the folder of datasets; what is not found is downloaded into it.

    Raises:
        DataNotFoundError: no intact copy and no download.
        ValueError: unknown name or split.
    """
    check_split(split)
    check_choice("name", name, TORCHVISION_DATASETS)
    dataset_class = getattr(torchvision.datasets, name)
    which: dict[str, Any] = {"split": split}
    if "split" not in inspect.signature(dataset_class).parameters:
        which = {"train": split == "train"}
    place = Path(root).expanduser()
    searched = [place, place / name]
    dataset = found_or_downloaded(
        f"{name} ({split} split)",
        lambda: _find(dataset_class, searched, which),
        partial(dataset_class, download=True, **which) if download else None,
        place,
        searched,
        f"Put torchvision's files of {name} there, or set root to the folder that holds them.",
    )
    images = torch.as_tensor(dataset.data)
    if images.ndim == 3:
        images = images[:, None]  # USPS keeps (N, H, W)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)  # CIFAR keeps (N, H, W, C), the others (N, C, H, W)
    targets = torch.as_tensor(dataset.targets if hasattr(dataset, "targets") else dataset.labels).long()
    names = getattr(dataset, "classes", None) or [str(label) for label in range(int(targets.max()) + 1)]
    return ImageArray(images, targets, names)


def _find(dataset_class: Any, folders: list[Path], which: dict[str, Any]) -> Any | None:
    for folder in folders:
        try:
            return dataset_class(folder, **which)
        except (RuntimeError, FileNotFoundError):  # torchvision's "not found or corrupted"
            continue
    return None
