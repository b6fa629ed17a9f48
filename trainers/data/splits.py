"""Who gets which image of the official training split.

The calibration images are a fixed function of the index, before anything else and whatever the seed, so that
a classifier trained once can be calibrated on images that it has not seen.
"""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from trainers.data.errors import OverlapError

HELD_OUT_VALIDATION_EVERY = 4  # of held-out images one in four is for model selection, the others calibrate


def split_indices(
    n: int,
    *,
    calibration_every: int = 10,
    validation_every: int = 20,
    mixture_every: int | None = 5,
    held_out: Tensor | None = None,
) -> dict[str, Tensor]:
    """Divide the indices 0 .. n - 1 by position.

    Calibration takes every index that ``calibration_every`` divides. Of the remaining, in order, validation
    takes each ``validation_every``-th, then mixture each ``mixture_every``-th; train takes the rest.

    Args:
        n: number of images in the official training split.
        calibration_every, validation_every: at least 2.
        mixture_every: at least 2, or None: the mixture is fitted on the images that the classifier was trained on.
        held_out: (H,) int64 indices that are neither for training nor for the mixture: every fourth is for
            validation, the others calibrate, and the first two shares have no part.

    Returns:
        "train", "validation", "mixture", "calibration": sorted int64 indices, (n_split,).

    Raises:
        ValueError: a share is out of range, or ``n`` is too small to give each split an image.
    """
    shares = {"calibration_every": calibration_every, "validation_every": validation_every}
    if mixture_every is not None:
        shares["mixture_every"] = mixture_every
    for name, value in shares.items():
        if value < 2:
            raise ValueError(f"{name}: expected an integer >= 2 (every {name.split('_')[0]}-th image); got {value}")
    rest = torch.arange(n)
    indices: dict[str, Tensor] = {}
    if held_out is not None:
        chosen = torch.arange(len(held_out)) % HELD_OUT_VALIDATION_EVERY == 0
        indices |= {"validation": held_out[chosen], "calibration": held_out[~chosen]}
        rest = rest[~torch.isin(rest, held_out)]
        shares = {name: value for name, value in shares.items() if name == "mixture_every"}
    for name, value in shares.items():
        taken = torch.arange(len(rest)) % value == 0
        indices[name.removesuffix("_every")] = rest[taken]
        rest = rest[~taken]
    indices["train"] = rest
    indices.setdefault("mixture", rest)
    empty = [name for name, values in indices.items() if len(values) == 0]
    if empty:
        raise ValueError(
            f"data: expected training images enough for each split; got {n}, of which none is left for "
            f"{', '.join(empty)}: give more, or other data.*_every"
        )
    return indices


def balanced_subset(targets: Tensor, n_labelled: int, num_classes: int, seed: int) -> Tensor:
    """Choose as many samples of each class, at random: sorted positions, (n_labelled,) int64, into ``targets``, (N,).

    Raises:
        ValueError: not a positive multiple of the number of classes, or a class has too few samples.
    """
    if n_labelled < 1 or n_labelled % num_classes:
        raise ValueError(f"n_labelled: expected a positive multiple of the {num_classes} classes; got {n_labelled}")
    per_class = n_labelled // num_classes
    counts = torch.bincount(targets, minlength=num_classes)
    fewest = int(counts.min())
    if fewest < per_class:
        raise ValueError(
            f"n_labelled={n_labelled}: expected {per_class} training images of each class; got {fewest} of class "
            f"{int(counts.argmin())}: choose at most n_labelled={fewest * num_classes}"
        )
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    chosen = [order[targets[order] == label][:per_class] for label in range(num_classes)]
    return torch.cat(chosen).sort().values


def check_disjoint(indices: Mapping[str, Tensor], *, may_overlap: frozenset[str] = frozenset()) -> None:
    """Raise OverlapError when two splits but for one pair share an image, or a split holds one twice.

    Args:
        indices: for each split its indices into one and the same list of images, (n_split,).
        may_overlap: the names of that pair.
    """
    for name, values in indices.items():
        twice = len(values) - len(values.unique())
        if twice:
            raise OverlapError(f"{name} split: expected each image once; got {twice} images twice: leave them out")
    for first, second in combinations(indices, 2):
        shared = int(torch.isin(indices[first], indices[second]).sum())
        if shared and {first, second} != may_overlap:
            raise OverlapError(
                f"{first} and {second} splits: expected no image in both; got {shared}: give each images of its own"
            )
