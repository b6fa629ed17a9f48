"""What a task cannot do without."""

from typing import Any

from omegaconf import DictConfig

from trainers.classifiers.preprocessing import brings_weights


def need_weights(cfg: DictConfig, reason: str) -> None:
    """Raise ValueError unless the classifier is trained: by its checkpoint, its package, or without a training."""
    if cfg.training and not brings_weights(cfg.classifier) and cfg.classifier.checkpoint is None:
        raise ValueError(f"{reason}: set classifier.checkpoint=..., or training=none if it comes with its weights")


def need(value: Any, key: str, reason: str) -> None:
    """Raise ValueError, with what to set, where a setting is null."""
    if value is None:
        raise ValueError(f"{reason}: set {key}=...")
