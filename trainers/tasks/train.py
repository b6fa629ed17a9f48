"""Training the classifier."""

from pathlib import Path

from omegaconf import DictConfig

from trainers.run.run import Run
from trainers.run.training import train_classifier


def train(cfg: DictConfig, folder: Path) -> None:
    """Train the classifier, keep the best epoch's weights, and write `classifier.safetensors`."""
    this = Run(cfg, folder)
    this.check()
    train_classifier(this)
