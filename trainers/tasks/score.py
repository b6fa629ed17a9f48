"""Judging images without labels."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from gmm_torch.errors import DriftError
from trainers.callbacks.verdict_writer import VerdictWriter
from trainers.data.errors import first_few
from trainers.data.file_batches import FileBatches
from trainers.data.file_times import arrival_times
from trainers.data.paths import image_paths, read_by_folder, sources_of
from trainers.evaluation.drift import (
    READ_BY_FOLDER,
    Drift,
    drift_callback,
    drift_facts,
    drift_in_words,
    drift_of,
)
from trainers.evaluation.metrics_file import write_json
from trainers.evaluation.pictures import picture
from trainers.evaluation.weighing import weighted_bars, weighted_by_files, weights_facts, weights_in_words
from trainers.records.partial import unfinished_files
from trainers.records.verdicts import N_NAMED, VerdictSummary, output_of, summarize_verdicts
from trainers.report.refusals import Change, write_refusals
from trainers.run.file_sizes import other_files
from trainers.run.model import Model, load_model
from trainers.run.preprocessing import in_another_way, preprocessing_of
from trainers.run.requirements import is_weighted, require
from trainers.run.run import Run

WEIGHTED = "weighted.safetensors"  # the detector, where its calibration was weighted for the images

log = logging.getLogger(__name__)


def score(cfg: DictConfig, folder: Path, *, class_names: Sequence[str] | str | None) -> None:
    """Write prediction, p-value and verdict of every image of `input` to `output`, and the refused ones to a page.

    What is said of all of them together goes to a JSON file beside the output. With a calibration that has weights,
    these are learnt from the images first, and the detector with them is left in the folder.

    Args:
        cfg, folder: as of every task.
        class_names: see `load_model`.
    """
    require(cfg.input, "input", "task=score needs images: a folder, a file, or a text file with one path a line")
    if cfg.page is not None and (type(cfg.page) is not int or cfg.page < 0):
        raise ValueError(f"page: expected a number of images to show, or null; got {cfg.page!r}; output= says where")
    if is_weighted(cfg) and class_names is not None:
        raise ValueError(
            "calibration: expected one without weights beside task.class_names, which stands for the data; got "
            f"{cfg.detector.calibration._target_}: leave the names out, since calibration images are weighted anew"
        )
    engine, watcher = instantiate(cfg.engine), drift_callback(cfg)
    run = Run(cfg, folder)
    path = Path(cfg.output or folder / "verdicts.csv")
    page, facts = path.with_suffix(".html"), path.with_name(f"{path.stem}.facts.json")
    paths = image_paths(cfg.input, without=[folder, path, page, facts, *unfinished_files(path)], column=cfg.column)
    model = load_model(run, "score", class_names)
    batches = FileBatches(paths, model.image_shape, cfg.data.batch_size, resize=model.resize)
    if sizes := other_files(model.detector.preprocessing, paths):
        log.warning("%s", sizes)
    said: list[str] = []
    if is_weighted(cfg):
        cfg.checkpoint = str(folder / WEIGHTED)  # which engines and the rows of a run that is begun again go by
        model = weighted_by_files(run, model, batches, folder / WEIGHTED)
        said = [weights_in_words(model)]
    times = arrival_times(batches.paths) if watcher and watcher.monitor.seconds is not None else None
    with output_of(path, _job(cfg, model, batches), batches.batch_size) as file:
        kept = file.keep(batches.paths, batches.batch_size)
        batches.first = len(kept)
        if kept:
            log.info("%d images were scored before", len(kept))
        if watcher:
            watcher.earlier = torch.tensor(kept, dtype=torch.float32)
            watcher.earlier_times = None if times is None else times[: len(kept)]
        log.info("score images: %d", len(batches.paths) - batches.first)
        watching = [callback for callback in run.callbacks if not isinstance(callback, Checkpoint)]
        watching += [watcher] if watcher else []
        run.predictor.callbacks.extend([VerdictWriter(file, model.class_names), *watching])  # type: ignore[attr-defined]
        with engine.start(run, model, batches) as (module, loader):
            try:
                run.predictor.predict(module, loader, return_predictions=False)
            except DriftError as error:
                if read_by_folder(cfg.input, batches.paths):
                    raise DriftError(f"{error}. {READ_BY_FOLDER}") from error
                raise
        file.finish(len(batches.paths))
    summary = summarize_verdicts(path, cfg.page or 0)
    together = {
        **{name: getattr(summary, name) for name in ("n", "n_refused", "n_unreadable")},
        "alpha": model.detector.alpha,
        "component_of": model.detector.score.component_of,  # the mixture that rows name components of
        "image_shape": list(model.image_shape),
        "calibration": weights_facts(model),
    }
    now = preprocessing_of(model.detector.classifier, model.resize)
    fitted = {name: value for name, value in model.detector.preprocessing.items() if name in now}
    warning = in_another_way(fitted, now)  # which the terminal has since the detector was loaded
    together["preprocessing"] = {"fitted": fitted, "now": now, "warning": warning}
    drift = drift_of(watcher, model.detector, path) if watcher else None
    if drift and drift.alarm_at is not None:
        drift = drift._replace(by_folder=read_by_folder(cfg.input, batches.paths))
    told = list(said)  # in the terminal, which has the watcher's warning
    if watcher and drift:
        said += drift_in_words(drift, watcher, batches.paths)
        told += drift_in_words(drift, watcher, batches.paths, warned=True)
        together["drift"] = drift_facts(drift, watcher, batches.paths)
    write_json(together, facts)
    if cfg.page is not None:
        remarks = [*(f"{each}." for each in (warning, sizes) if each), *said]
        _write_page(model, summary, batches, page, remarks, drift, title=first_few(sources_of(cfg.input), N_NAMED))
    _tell(summary, model.detector.alpha, path, told if cfg.page is None else [*told, f"page: {page}"])


def _job(cfg: DictConfig, model: Model, batches: FileBatches) -> str:
    """Digits that stand for what verdicts depend on; the detector's file knows the weights of its classifier."""
    settings = [model.class_names, batches.image_shape, astuple(batches.resize), batches.batch_size]
    digest = hashlib.sha256(Path(cfg.checkpoint).read_bytes())
    digest.update(json.dumps([*settings, cfg.trainer.get("precision")]).encode())
    return digest.hexdigest()[:12]


def _write_page(
    model: Model,
    summary: VerdictSummary,
    batches: FileBatches,
    page: Path,
    remarks: list[str],
    drift: Drift | None,
    *,
    title: str,
) -> None:
    detector = model.detector
    pictures, explanations = [], []
    for images in _images([row.path for row in summary.refused], batches):
        pictures += [picture(torch.nan_to_num(image)) for image in images]
        explanations += detector.explain(images.to(detector.device), model.class_names, n_features=3)
    write_refusals(
        summary,
        pictures,
        explanations,
        page,
        alpha=detector.alpha,
        grid=detector.calibration.grid,
        weighted_bars=weighted_bars(detector.calibration),
        class_names=model.class_names,
        title=title,
        remarks=remarks,
        change=_change(drift, batches) if drift else None,
    )


def _images(paths: Sequence[str], batches: FileBatches) -> Iterator[Tensor]:
    """Batches of images (B, C, H, W) of files."""
    shown = FileBatches(paths, batches.image_shape, batches.batch_size, resize=batches.resize)
    return (batch.images for batch in DataLoader(shown, batch_size=None))


def _change(drift: Drift, batches: FileBatches) -> Change | None:
    """What the page shows after an alarm."""
    if drift.alarm_at is None:
        return None
    examples = {}
    for each in drift.grown:
        files = [batches.paths[i] for i in each.examples]
        images = [picture(torch.nan_to_num(image)) for part in _images(files, batches) for image in part]
        examples[each] = list(zip(files, images, strict=True))
    return Change(drift.alarm_at, drift.stretches, drift.mixture, examples)


def _tell(summary: VerdictSummary, alpha: float, path: Path, said: list[str]) -> None:
    console = Console(soft_wrap=True)
    unreadable = ""
    if n := summary.n_unreadable:
        named = first_few([row.path for row in summary.unreadable], N_NAMED, n)
        unreadable = f", {n} of them because they can't be read ({named})"
    console.print(f"{summary.n_refused} of {summary.n} images refused at alpha={alpha:g}{unreadable}: {path}")
    for sentence in said:
        console.print(sentence)
