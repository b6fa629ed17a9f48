"""How images are brought to what the classifier takes, in a line for whoever fits a detector for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from trainers.classifiers.preprocessing import declared
from trainers.data.resize import resize_of
from trainers.run.file_sizes import FILE_SIZE, in_words
from trainers.run.preprocessing import MOMENTS

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def preparation_in_words(cfg: DictConfig, fitted: Mapping[str, Any], image_shape: Sequence[int]) -> str:
    """From which size to which images are brought, and by which moments normalised, with the keys that change both.

    Args:
        cfg: of the run.
        fitted: the detector's `preprocessing`, with the entries of `preprocessing_of` and `file_size_of`.
        image_shape: (C, H, W) that the classifier takes.
    """
    return f"{_size(cfg, fitted, image_shape)}; {_moments(cfg, fitted)}"


def _size(cfg: DictConfig, fitted: Mapping[str, Any], image_shape: Sequence[int]) -> str:
    size, resize = in_words(*image_shape[1:]), resize_of(cfg.data.get("source"))
    found = fitted.get(FILE_SIZE, "" if resize else size)
    if resize is None or (found == size and resize.crop_share == 1):
        return f"{size} pixels, not scaled (data.image_shape)"
    how = f"crop_share={resize.crop_share:.3g}, interpolation={resize.interpolation}, keep_ratio={resize.keep_ratio}"
    given = f"{found} pixels" if found else "of several sizes"
    return f"{given}, brought to {size} (data.image_shape; data.source: {how})"


def _moments(cfg: DictConfig, fitted: Mapping[str, Any]) -> str:
    normalize = cfg.classifier.get("normalize") or {}
    own = bool(normalize) and any(normalize.get(name) != cfg.data.get(name) for name in MOMENTS)
    keys = ", ".join(f"{'classifier.normalize' if own else 'data'}.{name}" for name in MOMENTS)
    moments = {name: list(fitted[name]) for name in MOMENTS}
    if {*moments["mean"]} == {0} and {*moments["std"]} == {1}:
        return f"values in [0, 1], not normalised ({keys if normalize else 'classifier.normalize'})"
    source = _source(cfg, moments, normalize)
    return f"normalised by mean {moments['mean']} and std {moments['std']}, {source} ({keys})"


def _source(cfg: DictConfig, moments: Mapping[str, list[float]], normalize: Mapping[str, Any]) -> str:
    """Whose the moments are."""

    def are(others: Mapping[str, Any]) -> bool:
        return all([float(f"{x:.6g}") for x in others[name] or ()] == moments[name] for name in MOMENTS)

    if not normalize or not are(normalize):
        return "which the classifier's checkpoint brings"
    if (found := declared(cfg.classifier)) and are(found._asdict()):
        return f"from {found.source}"
    return "those of ImageNet" if are(IMAGENET) else "as configured"
