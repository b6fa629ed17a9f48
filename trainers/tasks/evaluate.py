"""Evaluating a detector on every source of failure."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from gmm_torch.detector import FailureDetector
from gmm_torch.files import write_text
from trainers.cache.run_folder import begin_stage
from trainers.evaluation.attacks import attack_diagnostics, attack_facts, attacked, attacked_at_budgets, sweep_metrics
from trainers.evaluation.components import components_of
from trainers.evaluation.corruptions import corruption_metrics
from trainers.evaluation.diagnosis import fitted_to
from trainers.evaluation.every_attack import every_attack_metrics
from trainers.evaluation.explanations import explain, neighbours
from trainers.evaluation.metrics_file import metrics_of, write_metrics
from trainers.evaluation.pictures import pictures
from trainers.evaluation.predict import predict
from trainers.evaluation.shifts import shift_metrics
from trainers.records.record import TEST, Records, write_scores
from trainers.report.components import shown_rows
from trainers.report.evaluation import Evaluation
from trainers.report.logged import log_results
from trainers.report.page import write_report
from trainers.report.projection import principal_plane
from trainers.report.reasons import reason_rows
from trainers.report.tables.attacks import attack_table, budget_table
from trainers.report.tables.benchmark import FILE, benchmark_table, group_averages
from trainers.report.tables.corruptions import corruption_table
from trainers.report.tables.error_rates import error_table
from trainers.report.tables.results import results_table
from trainers.report.tables.shifts import shift_table
from trainers.run.model import load_detector
from trainers.run.requirements import is_weighted, require, require_detector
from trainers.run.run import Run

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, folder: Path) -> None:
    """Evaluate the detector of `checkpoint` on the classifier of `classifier.checkpoint`."""
    require_detector(cfg, "evaluate")
    if is_weighted(cfg):
        require(cfg.get("shift"), "shift", "task=evaluate learns weights of a calibration from images from elsewhere")
    this = Run(cfg, folder)
    detector = load_detector(cfg, this.classifier, this.data.image_shape)
    for finding in fitted_to(this, detector):
        log.warning("%s", finding)
    evaluate_detector(this, detector)


def evaluate_detector(run: Run, detector: FailureDetector) -> dict[str, Any]:
    """Score every source of failure; write `metrics.json`, `scores.csv`, `report.html`; print the tables; log."""
    cfg, data = run.cfg, run.data
    begin_stage(run.folder, "evaluate")
    images: dict[str, Dataset[Any]] = {TEST: data.test_dataloader().dataset}
    results = {name: attacked(run, detector.classifier, name) for name in run.attacks}
    images |= {f"adversarial/{name}": TensorDataset(result.images) for name, result in results.items()}
    images |= {f"ood/{name}": dataset for name, dataset in run.ood.items()}
    known: dict[str, tuple[Tensor, ...]] = {TEST: (data.test_images.targets,)}
    known |= {f"adversarial/{name}": (result.label, result.index) for name, result in results.items()}
    budgets = {name: attacked_at_budgets(run, detector.classifier, name) for name in run.attack_budgets}
    records = {
        source: predict(run, detector, dataset, source, *known.get(source, ())) for source, dataset in images.items()
    }
    clean = records[TEST]
    facts = {f"adversarial/{name}": attack_facts(result) for name, result in results.items()}
    successes = {name: records[f"adversarial/{name}"] for name in results}
    metrics = metrics_of(run, detector, records, facts)
    metrics["attack_doubts"] = attack_diagnostics(results, budgets)
    metrics["every_attack"] = every_attack_metrics(results, successes, clean.rows(~clean.wrong))
    metrics["sweeps"] = sweep_metrics(run, detector, budgets, clean)
    metrics["corruptions"] = corruption_metrics(run, detector)
    metrics["shifts"] = shift_metrics(run, detector)
    benchmark = cfg.get("benchmark")
    if benchmark is not None:
        metrics["benchmark"] = group_averages(metrics, benchmark)
    write_metrics(metrics, run.folder / "metrics.json")
    every = Records.cat(list(records.values()))
    write_scores(every, run.folder / "scores.csv")
    components = components_of(detector, clean)
    explained = [row for rows in reason_rows(every).values() for row in rows]
    explanations = explain(run, detector, images, explained)
    first = next(iter(detector.score.models().values()), None)
    evaluation = Evaluation(
        metrics=metrics,
        records=every,
        projection=principal_plane(every.features, fit_rows=every.clean()).numpy(),
        images=pictures(images, shown_rows(every, components)),
        class_names=data.class_names,
        title=cfg.title,
        history=first.mixture.history.tolist() if first else [],
        converged=first is None or first.mixture.converged,
        components=components,
        explanations=explanations,
        neighbours=neighbours(run, detector, explanations.values()),
    )
    figures = write_report(evaluation, run.folder / "report.html")
    tables = {"results": results_table(metrics), "errors": error_table(metrics)}
    if benchmark is not None:
        tables["benchmark"] = benchmark_table(metrics, benchmark)
        write_text(run.folder / FILE, tables["benchmark"].markdown())
    if results:
        tables["attacks"] = attack_table(metrics)
    if metrics["sweeps"]:
        tables["budgets"] = budget_table(metrics)
    if metrics["corruptions"]:
        tables["corruptions"] = corruption_table(metrics)
    if metrics["shifts"]:
        tables["shifts"] = shift_table(metrics)
    console = Console()
    for table in tables.values():
        console.print(table.terminal())
    console.print(f"report: {run.folder / 'report.html'}", soft_wrap=True)
    log_results(run.informed_loggers, evaluation, tables, figures, run.folder)
    return metrics
