"""Folders named after classes, and the classes that a trained model answers for."""

import re
from collections.abc import Sequence

import torch

from trainers.data.errors import DataError
from trainers.data.images import LabelledImages

SHOWN = 5


def label_by_name(images: LabelledImages, classes: Sequence[Sequence[str]]) -> LabelledImages:
    """The same images, whose class names are folders, with the labels of a model's classes, each folder by its name.

    Args:
        classes: of each class of the model the names that it goes by; case, `_` and `-` do not matter.

    Raises:
        DataError: a folder that no class is called like, or several are; two folders of one class.
    """
    labels = [_label(folder, classes) for folder in images.class_names]
    if len(set(labels)) < len(labels):
        twice = [folder for folder, label in zip(images.class_names, labels, strict=True) if labels.count(label) > 1]
        raise DataError(
            f"class folders: expected one for a class of the model; got {' and '.join(twice)} for one: merge them, or "
            "say data.label_by=order if the folders, sorted by name, are the classes in their order"
        )
    names = [names[0] for names in classes]
    for folder, label in zip(images.class_names, labels, strict=True):
        names[label] = folder
    images.targets = torch.tensor(labels)[images.targets]
    images.class_names = names
    return images


def _label(folder: str, classes: Sequence[Sequence[str]]) -> int:
    found = [label for label, names in enumerate(classes) if _plain(folder) in map(_plain, names)]
    if len(found) != 1:
        shown = ", ".join(names[0] for names in classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
        got = f"which {len(found)} of them are called" if found else "which none of them is called"
        raise DataError(
            f"class folders: expected names of the {len(classes)} classes of the model ({shown}); got {folder!r}, "
            f"{got}: rename the folder, or say data.label_by=order if the folders, sorted by name, are the classes in "
            "their order"
        )
    return found[0]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
