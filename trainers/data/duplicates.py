"""Images of the same content in two splits."""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from trainers.data.image_files import ImageFiles
from trainers.data.images import ImageArray, LabelledImages

MAX_FILES = 20_000  # whose content is read for the comparison
_APART = (("train", "mixture"),)  # may share images by intent


def duplicates(training: LabelledImages, test: LabelledImages, indices: Mapping[str, Tensor]) -> Iterator[str]:
    """A sentence for each two roles that share images of the same content, which are then not new to the detector.

    Images in memory are compared by their pixels, files that are read when needed by their bytes, if they are at most
    `MAX_FILES`; others are not compared. Indices of the role "test" are into `test`, all others into `training`.
    """
    of_training, of_test = _digests(training), _digests(test)
    roles = {
        role: {digest for i in index.tolist() if (digest := (of_test if role == "test" else of_training).get(i))}
        for role, index in indices.items()
    }
    for first, second in combinations(sorted(roles), 2):
        shared = len(roles[first] & roles[second])
        if shared and (second, first) not in _APART:
            yield (
                f"{shared} images of {first} ({len(indices[first])}) have the content of images of {second} "
                f"({len(indices[second])}): keep each in one of them, or numbers are better than on new images"
            )


def _digests(images: LabelledImages) -> dict[int, bytes]:
    if isinstance(images, ImageArray):
        rows = images.images.flatten(1).contiguous().view(torch.uint8).numpy()
        return {i: hashlib.blake2b(row, digest_size=16).digest() for i, row in enumerate(rows)}
    if isinstance(images, ImageFiles) and len(images) <= MAX_FILES:
        return {i: hashlib.blake2b(Path(path).read_bytes()).digest() for i, path in enumerate(images.paths)}
    return {}
