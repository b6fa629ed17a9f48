"""Whether images come in the size of the calibration images, before all are brought to that of the classifier.

An image that was scaled otherwise is smoother or sharper than those, which a detector notices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from trainers.data.errors import DataError
from trainers.data.image_files import open_image
from trainers.data.images import LabelledImages

FILE_SIZE = "file_size"  # of a detector's `preprocessing`
N_LOOKED_AT = 100  # files to be scored, evenly spaced


def in_words(height: int, width: int) -> str:
    """As a detector's file has it."""
    return f"{height} x {width}"


def file_size_of(images: LabelledImages, calibration: Tensor) -> dict[str, str]:
    """The entry of `preprocessing` for calibration images (n,) that come in one size; none where sizes differ."""
    if not images.paths:  # arrays, which nothing has scaled
        return {FILE_SIZE: in_words(*images.image_shape[1:])}
    found: set[str] = set()
    for index in calibration.tolist():
        found.add(_size_of(images.paths[index]))
        if len(found) > 1 or "" in found:
            return {}
    return {FILE_SIZE: found.pop()}


def another_size(fitted: Mapping[str, Any], size: str) -> bool:
    """Whether an image of that size is none like the calibration images, as `preprocessing` knows them."""
    return bool(size) and fitted.get(FILE_SIZE, size) != size


def warning_of(fitted: Mapping[str, Any], size: str, where: str) -> str:
    """What to say of images of another size; `where` says which."""
    return (
        f"image size: expected {fitted[FILE_SIZE]} pixels, as of the calibration images; got {size} ({where}). All are "
        "scaled to the size that the classifier takes, so these look smoother or sharper, and good ones may be refused "
        "for this alone: give images of that size, or fit a detector with calibration images like these"
    )


def other_files(fitted: Mapping[str, Any], paths: Sequence[str]) -> str:
    """What to say of files among which some have another size than the calibration images; nothing where none has."""
    if FILE_SIZE not in fitted or not paths:
        return ""
    step = -(-len(paths) // N_LOOKED_AT)
    looked_at = {path: _size_of(path) for path in paths[::step]}
    others = {path: size for path, size in looked_at.items() if another_size(fitted, size)}
    if not others:
        return ""
    first, size = next(iter(others.items()))
    return warning_of(fitted, size, f"{first}, one of {len(others)} such among {len(looked_at)} files looked at")


def _size_of(path: str) -> str:
    """Of a file, from its header; empty where it can't be read."""
    try:
        with open_image(path) as image:
            return in_words(image.height, image.width)
    except DataError:
        return ""
