"""Evaluating a detector on every source of failure."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch.utils.data import Dataset, TensorDataset

from gmm_torch.detection import FailureDetector
from gmm_torch.files import atomic_path
from gmm_torch.mixture import GaussianMixture
from trainers.attacks import AttackResult
from trainers.evaluation.attacks import attacked, doubts, swept
from trainers.evaluation.budget_metrics import attack_facts
from trainers.evaluation.budgets import sweep_metrics
from trainers.evaluation.components import components_of
from trainers.evaluation.corruptions import corruption_metrics
from trainers.evaluation.explanations import explain, neighbours
from trainers.evaluation.metrics_file import every_attack, metrics_of, write_metrics
from trainers.evaluation.pictures import pictures
from trainers.evaluation.predict import judge
from trainers.evaluation.score_file import score_table, write_scores
from trainers.report import TEST, Evaluation, principal_plane, reason_rows, shown_rows, write_report
from trainers.report.tables.attacks import attack_table
from trainers.report.tables.benchmark import FILE, benchmark_markdown, benchmark_table, group_averages
from trainers.report.tables.budgets import sweep_table
from trainers.report.tables.corruptions import corruption_table
from trainers.report.tables.error_rates import error_table
from trainers.report.tables.results import metrics_table
from trainers.run.folder import begin_stage
from trainers.run.need import need
from trainers.run.run import Run

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, folder: Path) -> None:
    """Evaluate the detector of `checkpoint` on the classifier of `classifier.checkpoint`."""
    need(cfg.classifier.checkpoint, "classifier.checkpoint", "task=evaluate needs the detector's classifier")
    need(cfg.checkpoint, "checkpoint", "task=evaluate needs a fitted detector")
    this = Run(cfg, folder)
    evaluate_detector(this, FailureDetector.load(cfg.checkpoint, this.classifier))


def evaluate_detector(run: Run, detector: FailureDetector) -> dict[str, Any]:
    """Score every source of failure; write `metrics.json`, `scores.csv`, `report.html`; print the table."""
    cfg, data = run.cfg, run.data
    begin_stage(run.folder, "evaluate")
    images: dict[str, Dataset[Any]] = {TEST: data.test_dataloader().dataset}
    labels = {TEST: data.test_images.targets}
    indices = {TEST: torch.arange(len(data.test_images))}
    results: dict[str, AttackResult] = {}
    for name in run.attacks:
        result = results[name] = attacked(run, detector.classifier, name)
        source = f"adversarial/{name}"
        images[source], labels[source], indices[source] = TensorDataset(result.images), result.label, result.index
    sweeps = {name: swept(run, detector.classifier, name) for name in run.sweeps}
    for name, dataset in run.ood.items():
        source = f"ood/{name}"
        images[source] = dataset
        labels[source] = torch.full((len(dataset),), -1)
        indices[source] = torch.arange(len(dataset))
    scored = {source: judge(run, detector, dataset, source) for source, dataset in images.items()}
    facts = {f"adversarial/{name}": attack_facts(result) for name, result in results.items()}
    metrics = metrics_of(run, detector, scored, labels[TEST], facts)
    metrics["attack_doubts"] = doubts(results, sweeps)
    metrics["every_attack"] = every_attack(results, scored, labels[TEST])
    metrics["sweeps"] = sweep_metrics(run, detector, sweeps, scored[TEST], labels[TEST])
    metrics["corruptions"] = corruption_metrics(run, detector)
    benchmark = cfg.get("benchmark")
    if benchmark is not None:
        metrics["benchmark"] = group_averages(metrics, benchmark)
    write_metrics(metrics, run.folder / "metrics.json")
    table = score_table(scored, labels, indices)
    write_scores(table, run.folder / "scores.csv")
    components = components_of(detector, scored[TEST], labels[TEST])
    explained = [row for rows in reason_rows(table).values() for row in rows]
    explanations = explain(run, detector, images, explained)
    clean = torch.from_numpy(table["source"] == TEST)
    features = torch.cat([part.features for part in scored.values()])
    mixtures = [module for module in detector.score.modules() if isinstance(module, GaussianMixture)]
    evaluation = Evaluation(
        metrics=metrics,
        table=table,
        projection=principal_plane(features, fit_rows=clean).numpy(),
        images=pictures(images, shown_rows(table, components)),
        class_names=data.class_names,
        title=cfg.title,
        history=mixtures[0].history.tolist() if mixtures else [],
        components=components,
        explanations=explanations,
        neighbours=neighbours(run, detector, explanations.values()),
    )
    write_report(evaluation, run.folder / "report.html")
    console = Console()
    console.print(metrics_table(metrics))
    console.print(error_table(metrics))
    if benchmark is not None:
        console.print(benchmark_table(metrics, benchmark))
        with atomic_path(run.folder / FILE) as temporary:
            temporary.write_text(benchmark_markdown(metrics, benchmark), encoding="utf-8")
    if results:
        console.print(attack_table(metrics))
    if metrics["sweeps"]:
        console.print(sweep_table(metrics))
    if metrics["corruptions"]:
        console.print(corruption_table(metrics))
    console.print(f"report: {run.folder / 'report.html'}", soft_wrap=True)
    return metrics
