"""The tasks of the application: functions of a resolved config and the run's folder."""

import csv
import functools
import json
import logging
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gmm_torch.detection import FailureDetector, Outputs
from gmm_torch.detection.calibration import check_alpha
from gmm_torch.detection.characterisation import characterise
from gmm_torch.detection.explanation import InputExplanation
from gmm_torch.detection.memory import ComponentMemory
from gmm_torch.em import EMOptions
from gmm_torch.files import atomic_path
from gmm_torch.functional.p_values import calibration_size
from gmm_torch.mixture import GaussianMixture
from trainers.attacks import Attack
from trainers.classifier_module import ClassifierModule
from trainers.classifiers.build import build_classifier
from trainers.classifiers.checkpoint import load_weights, read_weights, save_weights
from trainers.data.datamodule import ImageDataModule
from trainers.data.folder import image_folder
from trainers.data.images import LabelledImages
from trainers.data.ood import build_ood
from trainers.error_table import error_table
from trainers.evaluation_module import EvaluationModule, OutputsModule, Scored, cat_scored
from trainers.evidence import (
    class_false_alarms,
    error_evidence,
    false_alarm_rates,
    holm_correct,
    source_evidence,
)
from trainers.mixture_module import MixtureModule
from trainers.report import TEST, Components, Evaluation, principal_plane, reason_rows, shown_rows, write_report
from trainers.strategies import without_gradients
from trainers.summarize import summarize as gather_runs
from trainers.tables import metrics_table

log = logging.getLogger(__name__)

CSV_COLUMNS = ("source", "index", "label", "prediction", "score", "p_value", "accept", "max_softmax", "component")
SAME_IMAGES = 0.95  # share of equal predictions from which images count as those that a detector remembers
FEW_BATCHES = 20  # are scored before a progress bar could be read
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "foolbox", "scikit-learn", "gmm_torch")


@dataclass
class Run:
    """One run of the application: its config, its folder, and what its tasks hand to each other."""

    cfg: DictConfig
    folder: Path

    @cached_property
    def data(self) -> ImageDataModule:
        """The data module; reads nothing yet."""
        return instantiate(self.cfg.data)

    @cached_property
    def classifier(self) -> nn.Module:
        """The classifier, with the checkpoint's weights if the config names one."""
        return build_classifier(self.cfg.classifier, self.data.num_classes, self.data.image_shape)

    def trainer(self, **changes: Any) -> lightning.Trainer:
        """The configured Trainer, its files in the run's folder."""
        return instantiate(self.cfg.trainer, default_root_dir=str(self.folder), **changes)

    def predict(self, module: lightning.LightningModule, loader: DataLoader[Any], what: str) -> list[Any]:
        """What `module` predicts on a loader's batches, on one device; says what is being done when there is much."""
        log.info("%s: %d images", what, len(loader.dataset))  # type: ignore[arg-type]
        trainer = self.trainer(
            devices=1,
            strategy="auto",
            callbacks=[],
            enable_checkpointing=False,
            enable_progress_bar=len(loader) > FEW_BATCHES,
        )
        return trainer.predict(module, loader)  # type: ignore[return-value]

    @cached_property
    def em_options(self) -> EMOptions:
        """How the mixtures are fitted."""
        return EMOptions(**OmegaConf.to_container(self.cfg.mixture.em), seed=self.cfg.seed)  # type: ignore[arg-type]

    @cached_property
    def attacks(self) -> dict[str, Attack]:
        """The attacks by name."""
        attacks = {name: instantiate(attack) for name, attack in (self.cfg.get("attack") or {}).items()}
        for attack in attacks.values():
            if self.cfg.attack_limit is not None:
                attack.n_images = min(attack.n_images or self.cfg.attack_limit, self.cfg.attack_limit)
        return attacks

    @cached_property
    def ood(self) -> dict[str, LabelledImages]:
        """The out-of-distribution sets by name, in the shape of the data."""
        return build_ood(self.cfg.get("ood"), self.data.image_shape, self.cfg.seed, self.cfg.ood_limit)

    def check(self) -> None:
        """Raise now what would go wrong after the long work."""
        check_alpha(self.cfg.alpha)
        instantiate(self.cfg.score)
        _ = self.em_options, self.attacks, self.data.test_images, self.ood
        needed, given = calibration_size(self.cfg.alpha), len(self.data.indices["calibration"])
        if given < needed:
            raise ValueError(
                f"calibration set: alpha={self.cfg.alpha:g} needs at least {needed} images; the split has {given}: "
                "lower data.calibration_every, or choose a larger alpha"
            )

    @property
    def device(self) -> torch.device:
        """Where the configured Trainer computes."""
        return self.trainer(devices=1, strategy="auto", callbacks=[]).strategy.root_device

    def loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        """Batches of a dataset, in order."""
        return DataLoader(dataset, batch_size=self.data.batch_size, num_workers=self.data.num_workers)


# ---- tasks


def run(cfg: DictConfig, folder: Path) -> None:
    """Train, fit, calibrate, evaluate, report. A classifier with a checkpoint is not trained again."""
    this = Run(cfg, folder)
    this.check()
    if cfg.classifier.checkpoint is None:
        train_classifier(this)
    detector = fit_detector(this)
    evaluate_detector(this, detector)


def train(cfg: DictConfig, folder: Path) -> None:
    """Train the classifier."""
    train_classifier(Run(cfg, folder))


def fit(cfg: DictConfig, folder: Path) -> None:
    """Fit and calibrate a detector for the classifier of `classifier.checkpoint`."""
    _need(cfg.classifier.checkpoint, "classifier.checkpoint", "task=fit needs a trained classifier")
    this = Run(cfg, folder)
    this.check()
    fit_detector(this)


def evaluate(cfg: DictConfig, folder: Path) -> None:
    """Evaluate the detector of `detector` on the classifier of `classifier.checkpoint`."""
    _need(cfg.classifier.checkpoint, "classifier.checkpoint", "task=evaluate needs the detector's classifier")
    _need(cfg.detector, "detector", "task=evaluate needs a fitted detector")
    this = Run(cfg, folder)
    evaluate_detector(this, FailureDetector.load(cfg.detector, this.classifier))


def score(cfg: DictConfig, folder: Path) -> None:
    """Write prediction, p-value and verdict of every image below `input` to a CSV."""
    _need(cfg.classifier.checkpoint, "classifier.checkpoint", "task=score needs the detector's classifier")
    _need(cfg.detector, "detector", "task=score needs a fitted detector")
    _need(cfg.input, "input", "task=score needs a folder of images")
    this = Run(cfg, folder)
    detector = FailureDetector.load(cfg.detector, this.classifier)
    images = image_folder(cfg.input, "all", image_shape=this.data.image_shape, skip_unreadable=cfg.skip_unreadable)
    scored = _score(this, detector, images, "images")
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


def summarize(cfg: DictConfig, folder: Path) -> None:
    """Gather every run below `input` into one table."""
    _need(cfg.input, "input", "task=summarize needs the folder of a sweep, multirun/ for instance")
    # A file or a pipe has room for every column.
    Console(width=None if sys.stdout.isatty() else 220).print(gather_runs(cfg.input).table())


def _need(value: Any, key: str, reason: str) -> None:
    if value is None:
        raise ValueError(f"{reason}: set {key}=...")


# ---- steps


def train_classifier(run: Run) -> None:
    """Train, keep the best epoch's weights, and write `classifier.safetensors`."""
    cfg, data = run.cfg, run.data
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    module = ClassifierModule(
        run.classifier,
        data.num_classes,
        **instantiate(cfg.optimizer),
    )
    trainer = run.trainer()
    trainer.fit(module, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
    keeper = trainer.checkpoint_callback
    if isinstance(keeper, ModelCheckpoint) and keeper.best_model_path:
        load_weights(run.classifier, read_weights(keeper.best_model_path), keeper.best_model_path)
    save_weights(run.classifier, run.folder / "classifier.safetensors")
    log.info("classifier: %s", run.folder / "classifier.safetensors")


def fit_detector(run: Run) -> FailureDetector:
    """Fit the score on the mixture split, calibrate on the calibration split, write `detector.safetensors`."""
    cfg, data = run.cfg, run.data
    detector = FailureDetector(
        run.classifier,
        layers=cfg.layers,
        score=instantiate(cfg.score),
        views=cfg.views,
        calibration=_calibration(cfg.calibration, data.num_classes),
        alpha=cfg.alpha,
        seed=cfg.seed,
    )
    extract = OutputsModule(detector.extractor, detector.score.needs_labels)
    fitting = Outputs.cat(run.predict(extract, data.mixture_dataloader(), "features of the mixture split"))
    calibration = Outputs.cat(run.predict(extract, data.calibration_dataloader(), "features of the calibration split"))
    options = run.em_options

    def fitter(mixture: GaussianMixture, features: Tensor) -> None:
        trainer = run.trainer(
            max_epochs=options.max_iter + 2,  # the survey and the assignment come before the iterations
            callbacks=[],
            enable_checkpointing=False,
            use_distributed_sampler=False,
            strategy=without_gradients(cfg.trainer.get("strategy", "auto")),
        )
        module = MixtureModule(mixture, features, options)
        trainer.fit(module)
        mixture.adopt(module.em)

    detector.fit_outputs(fitting, fitter)
    detector.calibrate_outputs(calibration)
    # The labels serve explanations alone: no verdict depends on them.
    detector.characterise_outputs(calibration, data.training_images.targets[data.indices["calibration"]])
    detector.save(run.folder / "detector.safetensors")
    log.info("detector: %s", run.folder / "detector.safetensors")
    return detector


def _calibration(cfg: DictConfig, n_classes: int) -> Any:
    chosen = instantiate(cfg)
    return chosen(n_classes=n_classes) if isinstance(chosen, functools.partial) else chosen


def evaluate_detector(run: Run, detector: FailureDetector) -> dict[str, Any]:
    """Score every source of failure; write `metrics.json`, `scores.csv`, `report.html`; print the table."""
    cfg, data = run.cfg, run.data
    images: dict[str, Dataset[Any]] = {TEST: data.test_dataloader().dataset}
    labels = {TEST: data.test_images.targets}
    indices = {TEST: torch.arange(len(data.test_images))}
    attacks: dict[str, dict[str, Any]] = {}
    for name, attack in run.attacks.items():
        log.info("attack %s", name)
        result = attack.run(detector.classifier, data.test_dataloader(), device=run.device, seed=cfg.seed)
        source = f"adversarial/{name}"
        images[source], labels[source], indices[source] = TensorDataset(result.images), result.label, result.index
        attacks[source] = {
            "epsilon": result.epsilon,
            "n_attacked": result.n_attacked,
            "success_rate": result.success_rate,
            "median_l2": result.median_l2,
            "median_linf": result.median_linf,
        }
    for name, dataset in run.ood.items():
        source = f"ood/{name}"
        images[source] = dataset
        labels[source] = torch.full((len(dataset),), -1)
        indices[source] = torch.arange(len(dataset))
    scored = {source: _score(run, detector, dataset, source) for source, dataset in images.items()}
    metrics = _metrics(run, detector, scored, labels[TEST], attacks)
    _write_metrics(metrics, run.folder / "metrics.json")
    table = _table(scored, labels, indices)
    _write_scores(table, run.folder / "scores.csv")
    components = _components(detector, scored[TEST], labels[TEST])
    explained = [row for rows in reason_rows(table).values() for row in rows]
    explanations = _explain(run, detector, images, explained)
    clean = torch.from_numpy(table["source"] == TEST)
    features = torch.cat([part.features for part in scored.values()])
    mixtures = [module for module in detector.score.modules() if isinstance(module, GaussianMixture)]
    evaluation = Evaluation(
        metrics=metrics,
        table=table,
        projection=principal_plane(features, fit_rows=clean).numpy(),
        images=_pictures(images, shown_rows(table, components)),
        class_names=data.class_names,
        title=cfg.title,
        history=mixtures[0].history.tolist() if mixtures else [],
        components=components,
        explanations=explanations,
        neighbours=_neighbours(run, detector, explanations.values()),
    )
    write_report(evaluation, run.folder / "report.html")
    console = Console()
    console.print(metrics_table(metrics))
    console.print(error_table(metrics))
    console.print(f"report: {run.folder / 'report.html'}", soft_wrap=True)
    return metrics


# ---- pieces


def _score(run: Run, detector: FailureDetector, dataset: Dataset[Any], what: str) -> Scored:
    if len(dataset) == 0:  # type: ignore[arg-type]
        empty = torch.empty(0)
        none = empty.long()
        components = none.reshape(0, len(detector.score.models()))
        features = empty.reshape(0, list(detector.widths.values())[-1])
        return Scored(none, empty, empty, empty.bool(), empty, none, components, features)
    return cat_scored(run.predict(EvaluationModule(detector), run.loader(dataset), f"score {what}"))


def _metrics(
    run: Run,
    detector: FailureDetector,
    scored: Mapping[str, Scored],
    labels: Tensor,
    attacks: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """The content of metrics.json."""
    clean = scored[TEST]
    wrong = clean.prediction != labels
    softmax = {"max_softmax": clean.max_softmax}
    sources = {"errors": error_evidence(clean.score, wrong, softmax, clean.p_value, clean.prediction)}
    for source, part in scored.items():
        if source == TEST:
            continue
        good = ~wrong if source.startswith("adversarial/") else torch.ones_like(wrong)
        baselines = {"max_softmax": (clean.max_softmax[good], part.max_softmax)}
        sources[source] = source_evidence(clean.score[good], part.score, baselines) | attacks.get(source, {})
    return {
        "title": run.cfg.title,
        "alpha": detector.alpha,
        "classifier": {"test_accuracy": float((~wrong).double().mean())},
        "calibration": {
            "n": len(detector.calibration),
            **false_alarm_rates(clean.p_value),
            "by_class": class_false_alarms(clean.p_value, clean.prediction),
        },
        "sources": holm_correct(sources),
        "splits": {name: len(index) for name, index in run.data.indices.items()},
        "data_fingerprint": run.data.fingerprint(),
        "n_fitted": detector.n_fitted,
        "seed": run.cfg.seed,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "device": _device_name(detector.device),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def _write_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def _table(scored: Mapping[str, Scored], labels: Mapping[str, Tensor], indices: Mapping[str, Tensor]) -> dict[str, Any]:
    """Columns of scores.csv as numpy arrays, sources one after another."""
    columns: dict[str, Any] = {
        "source": np.concatenate([np.full(len(part.score), source) for source, part in scored.items()]),
        "index": torch.cat([indices[source] for source in scored]).numpy(),
        "label": torch.cat([labels[source] for source in scored]).numpy(),
    }
    for name in ("prediction", "score", "p_value", "accept", "max_softmax", "component"):
        columns[name] = torch.cat([getattr(part, name) for part in scored.values()]).numpy()
    return columns


def _write_scores(table: Mapping[str, Any], path: Path) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        writer.writerows(zip(*(table[name].tolist() for name in CSV_COLUMNS), strict=True))


def _components(detector: FailureDetector, clean: Scored, labels: Tensor) -> dict[str, Components]:
    """What the test images say about the components of each mixture, and what the calibration images said."""
    found = {}
    for j, (name, model) in enumerate(detector.score.models().items()):
        component = clean.components[:, j]
        kept: ComponentMemory = detector.memory.mixtures[j]  # type: ignore[assignment]
        held_out = torch.stack([kept.labelled.sum(1), kept.wrong], dim=1).cpu()
        found[name] = Components(
            characterise(component, clean.prediction, labels, model.mixture.n_components),
            component.numpy(),
            held_out.numpy() if bool(held_out.any()) else None,
        )
    return found


def _explain(
    run: Run, detector: FailureDetector, images: Mapping[str, Dataset[Any]], rows: Sequence[int]
) -> dict[int, InputExplanation]:
    """Explanations of the chosen rows."""
    if not rows:
        return {}
    batch = torch.stack(list(_items(images, rows).values())).to(detector.device)
    explanation = detector.explain(batch, run.data.class_names, n_features=3)
    return {row: explanation[i] for i, row in enumerate(_items(images, rows))}


def _neighbours(run: Run, detector: FailureDetector, explanations: Iterable[InputExplanation]) -> dict[int, Any]:
    """The fitting images that explanations name; none where the detector was fitted to other images than the run's.

    Other images show by their number, or by predictions that are not those that the detector remembers.
    """
    facts = [each.mixtures[each.leading] for each in explanations if each.leading is not None]
    predicted = {position: prediction for each in facts for position, _, prediction in each.nearest}
    dataset = run.data.mixture_dataloader().dataset
    if not predicted or len(dataset) != detector.n_fitted:  # type: ignore[arg-type]
        return {}
    images = {position: dataset[position][0] for position in predicted}
    with torch.no_grad():
        logits = detector.extractor(torch.stack(list(images.values())).to(detector.device)).own_logits
    agree = logits.argmax(1).cpu() == torch.tensor(list(predicted.values()))
    if float(agree.float().mean()) < SAME_IMAGES:
        return {}
    return {position: _picture(image) for position, image in images.items()}


def _pictures(images: Mapping[str, Dataset[Any]], rows: Iterable[int]) -> dict[int, Any]:
    """The images of the chosen rows as (H, W, C) uint8."""
    return {row: _picture(image) for row, image in _items(images, rows).items()}


def _picture(image: Tensor) -> Any:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


def _items(images: Mapping[str, Dataset[Any]], rows: Iterable[int]) -> dict[int, Tensor]:
    """The images of the chosen rows of the table, in its order, as the classifier gets them."""
    found: dict[int, Tensor] = {}
    chosen, start = sorted(rows), 0
    for dataset in images.values():
        n = len(dataset)  # type: ignore[arg-type]
        found |= {row: dataset[row - start][0] for row in chosen if start <= row < start + n}
        start += n
    return found
