"""What a task requires, and what it would ignore."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gmm_torch.checks import check_count
from trainers.classifiers.preprocessing import brings_weights

WEIGHING = ("score", "evaluate")  # tasks that calibrate a fitted detector for images from elsewhere


def require(value: Any, key: str, reason: str) -> None:
    """Raise ValueError, with what to set, where a setting is null."""
    if value is None:
        raise ValueError(f"{reason}: set {key}=...")


def require_packages(names: Iterable[str], what: str, extra: str) -> None:
    """Raise ValueError, with the extra that installs them, where packages are missing."""
    if missing := [name for name in names if find_spec(name) is None]:
        raise ValueError(f"{what} needs {', '.join(missing)}: pip install -e '.[{extra}]'")


def require_weights(cfg: DictConfig, reason: str) -> None:
    """Raise ValueError unless the classifier is trained: by its checkpoint, its package, or without a training."""
    if cfg.training and not brings_weights(cfg.classifier) and cfg.classifier.checkpoint is None:
        raise ValueError(f"{reason}: set classifier.checkpoint=..., or training=none if it comes with its weights")


def require_detector(cfg: DictConfig, task: str) -> None:
    """Raise ValueError unless the files that a task needs are set: a detector, and its classifier."""
    require_weights(cfg, f"task={task} needs the detector's classifier")
    require(cfg.checkpoint, "checkpoint", f"task={task} needs a fitted detector")


def require_numbers(cfg: DictConfig) -> None:
    """Raise ValueError unless what every task counts with is a whole number in its range."""
    for key, at_least in (("seed", 0), ("data.batch_size", 1), ("data.num_workers", 0), ("trainer.max_epochs", -1)):
        if (value := OmegaConf.select(cfg, key)) is not None:
            check_count(key, value, at_least)


@contextmanager
def naming(key: str, do: str = "") -> Iterator[None]:
    """Within, an error about how the node of a key is made is a ValueError: the key, its cause, and what to do."""
    try:
        yield
    except (InstantiationException, TypeError) as error:
        raise ValueError(f"{key}: {error.__cause__ or error}{do and f' {do}'}") from error


def is_weighted(cfg: DictConfig) -> bool:
    """True if the calibration of the config learns weights from images from elsewhere."""
    return bool(getattr(get_class(cfg.detector.calibration._target_), "needs_adapt", False))


def require_optimizer(cfg: DictConfig) -> None:
    """Raise ValueError unless the optimizer of the config takes its settings."""
    for name in ("lr", "weight_decay", "momentum"):
        if isinstance(cfg.get(name), str):
            raise ValueError(f"optimizer.{name}: expected a number; got {cfg[name]!r}")
    with naming("optimizer"):
        instantiate(cfg)([nn.Parameter(torch.zeros(1))])


def require_all(cfg: DictConfig) -> None:
    """Raise ValueError where a value that has no default (`???`) is not set; of data, only where a task reads them."""
    names_are_given = OmegaConf.select(cfg, "task.class_names") is not None
    missing = sorted(key for key in OmegaConf.missing_keys(cfg) if not (names_are_given and key.startswith("data.")))
    if missing:
        raise ValueError(f"{missing[0]}: expected a value; got none: set {missing[0]}=...")


def refuse_ignored(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Raise ValueError where a command, `key=value` as typed, sets what the detector of `checkpoint` has settled."""
    if cfg.get("checkpoint") is None:
        return
    task = cfg.task._target_.rpartition(".")[2]
    weighs = task in WEIGHING and is_weighted(cfg)
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if weighs and (key == "calibration" or key.startswith("detector.calibration.")):
            continue
        if key.partition(".")[0] in ("detector", "score", "calibration"):
            raise ValueError(
                f"{override}: expected no settings of a detector beside checkpoint=..., which is used as it was fitted "
                "and calibrated; got one: leave it out, or fit another detector with task=fit"
            )


def check_torchrun(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Raise ValueError where processes of torchrun would each do a run; `overrides` are those of Hydra's settings."""
    n = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if n == 1:
        return
    there = cfg.trainer.devices * cfg.trainer.get("num_nodes", 1)
    if there != n:
        raise ValueError(f"trainer: expected the {n} processes of torchrun; got {there}: set trainer=torchrun")
    if not any(override.startswith("hydra.run.dir=") for override in overrides):
        raise ValueError(
            "hydra.run.dir: expected one folder for all processes of torchrun; got the time at which each began: set "
            "hydra.run.dir=..."
        )
