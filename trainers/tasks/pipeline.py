"""Everything in one run."""

from pathlib import Path

from omegaconf import DictConfig

from trainers.tasks.evaluate import evaluate_detector
from trainers.tasks.fit import fit_detector
from trainers.tasks.run import Run
from trainers.tasks.train import train_classifier


def run(cfg: DictConfig, folder: Path) -> None:
    """Train, fit, calibrate, evaluate, report. A classifier with a checkpoint is not trained again."""
    this = Run(cfg, folder)
    this.check()
    if cfg.classifier.checkpoint is None:
        train_classifier(this)
    detector = fit_detector(this)
    evaluate_detector(this, detector)
