"""Judging images without labels."""

import csv
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from gmm_torch.detection import FailureDetector
from gmm_torch.files import atomic_path
from trainers.data.folder import image_folder
from trainers.tasks.judge import judge
from trainers.tasks.need import need
from trainers.tasks.run import Run


def score(cfg: DictConfig, folder: Path) -> None:
    """Write prediction, p-value and verdict of every image below `input` to a CSV."""
    need(cfg.classifier.checkpoint, "classifier.checkpoint", "task=score needs the detector's classifier")
    need(cfg.detector, "detector", "task=score needs a fitted detector")
    need(cfg.input, "input", "task=score needs a folder of images")
    this = Run(cfg, folder)
    detector = FailureDetector.load(cfg.detector, this.classifier)
    images = image_folder(cfg.input, "all", image_shape=this.data.image_shape, skip_unreadable=cfg.skip_unreadable)
    scored = judge(this, detector, images, "images")
    names = this.data.class_names
    path = folder / "verdicts.csv"
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "prediction", "score", "p_value", "accept", "component"))
        for i, image in enumerate(images.paths):  # type: ignore[attr-defined]
            verdict = (names[scored.prediction[i]], f"{scored.score[i]:.6g}", f"{scored.p_value[i]:.6g}")
            writer.writerow((image, *verdict, bool(scored.accept[i]), int(scored.component[i])))
    refused = int((~scored.accept).sum())
    Console().print(f"{refused} of {len(scored.accept)} images refused at alpha={detector.alpha:g}: {path}")
