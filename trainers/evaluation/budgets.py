"""Metrics of an attack as its budget grows."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, TensorDataset

from gmm_torch.detection import FailureDetector
from trainers.attacks import AttackResult
from trainers.evaluation.attacks import attack_facts, verdict_facts
from trainers.evaluation.detection_metrics import auroc_metrics
from trainers.evaluation.predict import predict
from trainers.records.record import Records
from trainers.run.run import Run


def budget_curve_metrics(
    run: Run, detector: FailureDetector, budgets: Mapping[str, Sequence[AttackResult]], clean: Records
) -> dict[str, list[dict[str, Any]]]:
    """The content of metrics.json under `sweeps`: name -> `budget_metrics` of each budget, in rising order."""
    right = clean.rows(~clean.wrong)
    found = {}
    for name, results in budgets.items():
        images: ConcatDataset[Any] = ConcatDataset([TensorDataset(result.images) for result in results])
        parts = predict(run, detector, images, name).split([result.n_success for result in results])
        found[name] = [budget_metrics(result, right, part) for result, part in zip(results, parts, strict=True)]
    return found


def budget_metrics(result: AttackResult, right: Records, successes: Records) -> dict[str, Any]:
    """One point of a curve: the successes of an attack at one budget, beside the clean images classified rightly.

    Returns:
        the keys of `attack_facts` and `verdict_facts`; n, the number of successes; those of `auroc_metrics`.
    """
    return {
        **attack_facts(result),
        **verdict_facts(successes.accept, result.n_attacked),
        "n": result.n_success,
        **auroc_metrics(right, successes),
    }
