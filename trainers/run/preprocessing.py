"""How images become what a network takes, as a detector's file has it, and where it is done in another way."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from trainers.data.resize import Resize

MOMENTS = ("mean", "std")
SPLIT = ("calibration_every", "validation_every", "mixture_every")


def preprocessing_of(classifier: nn.Module, resize: Resize | None) -> dict[str, Any]:
    """The moments of a classifier's normalisation, and how images get their size, as JSON can hold it.

    Args:
        classifier: a `NormalizedClassifier`.
        resize: None where nothing is resized.
    """
    normalize = classifier.get_submodule("normalize")
    moments = {name: [float(f"{x:.6g}") for x in getattr(normalize, name).flatten().tolist()] for name in MOMENTS}
    return moments | (asdict(resize) if resize else {})


def in_another_way(fitted: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What to say where images are prepared in another way than those of a fit; nothing where they are not."""
    other = {name: value for name, value in fitted.items() if now.get(name, value) != value}
    if not other:
        return ""
    differences = ", ".join(f"{name} {now[name]} and not {value}" for name, value in other.items())
    keys = {name: f"data.{name}" if name in MOMENTS else f"data.source.{name}" for name in other}
    settings = " ".join(f"{keys[name]}={value}".replace(" ", "") for name, value in other.items())
    return (
        "Images are prepared in another way than those that the detector was fitted to, so that its p-values would "
        f"promise nothing of them: {differences}: set {settings}"
    )


def split_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """By which options the images of a config's `data` were split, in words that a detector's file can hold."""
    return {name: str(data[name]) for name in SPLIT if name in data}


def check_split(fitted: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise ValueError where images are split in another way than at the fit, and some that it saw would calibrate."""
    now = split_of(data)
    if other := {name: fitted[name] for name in now if fitted.get(name, now[name]) != now[name]}:
        name, value = next(iter(other.items()))
        settings = " ".join(f"data.{name}={value}".replace("None", "null") for name, value in other.items())
        raise ValueError(
            f"data.{name}: expected {value}, by which the images of the detector's fit were split; got {now[name]}, "
            f"which calibrates on images that it was fitted to: set {settings}"
        )
