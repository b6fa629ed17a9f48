"""How images become what a network takes, as a detector's file has it, and where it is done in another way."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from trainers.data.images import LabelledImages, content_digest
from trainers.data.resize import Resize

MOMENTS = ("mean", "std")
SPLIT = ("calibration_every", "validation_every")  # who is left for the mixture follows
TRAINING = ("seed", "test_share", "held_out_every")  # of a source: which images there are to split, in what order
HELD_OUT = "held_out"
IMAGES = "training_images"


def preprocessing_of(classifier: nn.Module, resize: Resize | None) -> dict[str, Any]:
    """The moments of a `NormalizedClassifier`, and how images get their size, if they are resized; for JSON."""
    normalize = classifier.get_submodule("normalize")
    moments = {name: [float(f"{x:.6g}") for x in getattr(normalize, name).flatten().tolist()] for name in MOMENTS}
    return moments | (asdict(resize) if resize else {})


def in_another_way(fitted: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What to say where images are prepared in another way than those of a fit; nothing where they are not.

    What only one of both knows is not compared: images of one size are not resized.
    """
    other = _others(fitted, now, list(fitted))
    if not other:
        return ""
    expected, got = (", ".join(f"{name} {values[name]}" for name in other) for values in (fitted, now))
    keys = {name: f"data.{name}" if name in MOMENTS else f"data.source.{name}" for name in other}
    settings = " ".join(f"{keys[name]}={value}".replace(" ", "") for name, value in other.items())
    return (
        f"preprocessing: expected {expected}, as the detector was fitted; got {got}. The same image then has another "
        "p-value, and any share of good images may be refused, not alpha of them: "
        f"set {settings}, or fit a detector with what is set now"
    )


def split_of(data: Mapping[str, Any], held_out: bool) -> dict[str, Any]:
    """Which images are not fitted to, in words that a detector's file can hold.

    Args:
        data: of a config.
        held_out: whether the data have images of their own for calibration and validation, see `LabelledImages`.
    """
    if held_out:
        return {HELD_OUT: "calibration, validation"}
    source = data.get("source") or {}
    settings = {name: data[name] for name in SPLIT}
    settings |= {f"source.{name}": source[name] for name in TRAINING if name in source}
    return {name: "null" if value is None else str(value) for name, value in settings.items()}  # as on a command line


def check_split(fitted: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where images that a fit saw would calibrate or be compared with; see `split_otherwise`."""
    if doubt := split_otherwise(fitted, now, "would calibrate"):
        raise ValueError(doubt)


def split_otherwise(fitted: Mapping[str, Any], now: Mapping[str, Any], they: str) -> str | None:
    """What to say where training images are split in another way than at a fit; None where they are not.

    Args:
        fitted: with the entries of `split_of` and `digest_of` at the fit.
        now: both. What no fit sees, because it is held out, asks for nothing.
        they: what images that it was fitted to then do or are.
    """
    if HELD_OUT in fitted and HELD_OUT not in now:
        return (
            "data: expected images that are held out (a folder val/, or a list), as at the detector's fit; got none, "
            f"so that images which it was fitted to {they}: give the data of the fit"
        )
    if other := _others(fitted, now, [name for name in now if name != IMAGES]):
        name, value = next(iter(other.items()))
        return (
            f"data.{name}: expected {value}, by which the images of the detector's fit were split; got {now[name]}, "
            f"so that images which it was fitted to {they}: set {_settings(other)}"
        )
    if HELD_OUT not in now and _others(fitted, now, [IMAGES]):
        return (
            f"data: expected the training images of the detector's fit ({fitted[IMAGES]}); got {now[IMAGES]}. They are "
            f"split by position, so where images came or went, some which it was fitted to {they}: give the "
            "data of the fit, fit again, or hold images out in a folder val/"
        )
    return None


def digest_of(images: LabelledImages) -> dict[str, Any]:
    """Which training images there are, those of calibration among them, in words that a detector's file can hold.

    By their files' labels and names, without the folders that all are in, or by the content of some of them where they
    are in no files.
    """
    if images.paths:
        # What the first and the last in their order have in common, those between them have as well.
        shared = os.path.commonpath([os.path.dirname(path) for path in (min(images.paths), max(images.paths))])
        names = [path[len(shared) :] for path in images.paths]
        digest = hashlib.sha256(repr((names, images.targets.tolist())).encode()).hexdigest()
    else:
        digest = content_digest(images)
    return {IMAGES: f"{len(images)} images, digest {digest[:12]}"}


def fitted_images_in_test(fitted: Mapping[str, Any], now: Mapping[str, Any], divided: bool) -> str | None:
    """What to say where a source may count images as test images that the fit saw; None where it does not.

    Args:
        fitted, now: with the entries of `split_of` and `digest_of` at the fit, and of the images to be evaluated on.
        divided: whether those are a random share of a folder, see `LabelledImages`.
    """
    if other := _others(fitted, now, [f"source.{name}" for name in TRAINING]):
        return (
            "test images: expected those that the detector's fit left out; got others, among which images that it was "
            f"fitted to may be, if the data are those of the fit: then set {_settings(other)}"
        )
    if divided and _others(fitted, now, [IMAGES]):
        return (
            f"test images: the folder has other images than at the detector's fit (for training {fitted[IMAGES]} then; "
            f"{now[IMAGES]} now). They are divided by chance anew, so images that the detector was fitted to are among "
            "the test images and make it look better than it is: evaluate on the images of the fit, fit again, or keep "
            "test images in a folder test/ beside train/"
        )
    return None


def _others(fitted: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The entries at the fit that are others now; what only one of both knows is not compared."""
    return {name: fitted[name] for name in names if name in fitted and now.get(name, fitted[name]) != fitted[name]}


def _settings(entries: Mapping[str, Any]) -> str:
    return " ".join(f"data.{name}={value}" for name, value in entries.items())
