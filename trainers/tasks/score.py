"""Judging images without labels."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch.utils.data import DataLoader

from gmm_torch.detection import FailureDetector
from trainers.callbacks.drift import DriftMonitor
from trainers.callbacks.verdict_writer import VerdictWriter
from trainers.data.file_batches import FileBatches
from trainers.data.paths import image_paths
from trainers.evaluation_module import EvaluationModule
from trainers.report.refusals import write_refusals
from trainers.tasks.need import need
from trainers.tasks.pictures import picture
from trainers.tasks.run import Run
from trainers.verdict_file import VerdictFile
from trainers.verdict_summary import VerdictSummary, summarize_verdicts

log = logging.getLogger(__name__)


def score(cfg: DictConfig, folder: Path) -> None:
    """Write prediction, p-value and verdict of every image of `input` to a CSV, and the refused ones to a page."""
    need(cfg.classifier.checkpoint, "classifier.checkpoint", "task=score needs the detector's classifier")
    need(cfg.detector, "detector", "task=score needs a fitted detector")
    need(cfg.input, "input", "task=score needs images: a folder, a file, or a text file with one path a line")
    run = Run(cfg, folder)
    path = Path(cfg.output or folder / "verdicts.csv")
    page = path.with_suffix(".html")
    batches = FileBatches(
        image_paths(cfg.input),
        run.data.image_shape,
        run.data.batch_size,
        crop_share=OmegaConf.select(cfg, "data.source.crop_share", default=1.0),
    )
    detector = FailureDetector.load(cfg.detector, run.classifier)
    monitor: DriftMonitor | None = instantiate(cfg.get("drift"))
    with VerdictFile(path, _job(run, batches)) as file:
        kept = file.keep(batches.paths, batches.batch_size)
        batches.first = len(kept)
        if kept:
            log.info("%d images were scored before", len(kept))
        _score_batches(run, detector, batches, file, monitor, torch.tensor(kept, dtype=torch.float32))
        file.finish(len(batches.paths))
    summary = summarize_verdicts(path, cfg.page or 0)
    said = [_drift_in_words(monitor, batches)] if monitor else []
    if cfg.page is not None:
        _write_page(run, detector, summary, batches, page, said)
    _tell(summary, detector.alpha, path, page if cfg.page is not None else None, said)


def _job(run: Run, batches: FileBatches) -> str:
    """Digits that stand for what verdicts depend on; the detector's file knows the weights of its classifier."""
    settings = [run.data.class_names, batches.image_shape, batches.crop_share, batches.batch_size]
    digest = hashlib.sha256(Path(run.cfg.detector).read_bytes())
    digest.update(json.dumps([*settings, run.cfg.trainer.get("precision")]).encode())
    return digest.hexdigest()[:12]


def _score_batches(
    run: Run,
    detector: FailureDetector,
    batches: FileBatches,
    file: VerdictFile,
    monitor: DriftMonitor | None,
    earlier: torch.Tensor,
) -> None:
    callbacks: list[Any] = [VerdictWriter(file, run.data.class_names)]
    if monitor:
        monitor.earlier = earlier
        callbacks.append(monitor)
    loader = DataLoader(batches, batch_size=None, num_workers=run.data.num_workers)
    log.info("score images: %d", len(batches.paths) - batches.first)
    trainer = run.predictor(loader, callbacks)
    trainer.predict(EvaluationModule(detector), loader, return_predictions=False)


def _drift_in_words(monitor: DriftMonitor, batches: FileBatches) -> str:
    martingale = monitor.martingale
    if martingale is None or martingale.alarm_index is None:
        return f"No drift: the capital did not reach {monitor.threshold:g}."
    index = martingale.alarm_index
    return (
        f"Drift at image {index + 1:,}, {batches.paths[index]}: the capital reached {monitor.threshold:g}, which "
        f"images like the calibration images ever do with probability at most {1 / monitor.threshold:.2g}."
    )


def _write_page(
    run: Run, detector: FailureDetector, summary: VerdictSummary, batches: FileBatches, page: Path, said: list[str]
) -> None:
    rows = [row.path for row in summary.refused]
    pictures, explanations = [], []
    shown = FileBatches(rows, batches.image_shape, batches.batch_size, crop_share=batches.crop_share)
    for images, _, _ in DataLoader(shown, batch_size=None):
        pictures += [picture(torch.nan_to_num(image)) for image in images]
        explanation = detector.explain(images.to(detector.device), run.data.class_names, n_features=3)
        explanations += [explanation[i] for i in range(len(images))]
    write_refusals(
        summary,
        pictures,
        explanations,
        page,
        alpha=detector.alpha,
        class_names=run.data.class_names,
        title=str(run.cfg.input),
        remarks=said,
    )


def _tell(summary: VerdictSummary, alpha: float, path: Path, page: Path | None, said: list[str]) -> None:
    console = Console(soft_wrap=True)
    unreadable = f", {summary.n_unreadable} of them because they can't be read" if summary.n_unreadable else ""
    console.print(f"{summary.n_refused} of {summary.n} images refused at alpha={alpha:g}{unreadable}: {path}")
    for sentence in said:
        console.print(sentence)
    if page is not None:
        console.print(f"page: {page}")
