"""Everything in one run."""

from pathlib import Path

from omegaconf import DictConfig

from trainers.cache.run_folder import WEIGHTS, begin_stage
from trainers.classifiers.checkpoint import save_weights
from trainers.evaluation.held_out import objective
from trainers.run.run import Run
from trainers.run.training import train_classifier
from trainers.tasks.evaluate import evaluate_detector
from trainers.tasks.fit import fit_detector


def run(cfg: DictConfig, folder: Path) -> float | None:
    """Train, fit, calibrate, evaluate, report; the `objective` of held-out images.

    A classifier with a checkpoint is not trained again.
    """
    this = Run(cfg, folder)
    this.check()
    begin_stage(folder, "fit")  # a checkpoint may be what an earlier training left here
    if cfg.training and cfg.classifier.checkpoint is None:
        train_classifier(this)
    elif cfg.classifier.checkpoint is None:  # weights that the network's own package brought
        save_weights(this.classifier, folder / WEIGHTS)
    detector = fit_detector(this)
    metrics = evaluate_detector(this, detector)
    return objective(metrics["held_out_log_likelihood"])
