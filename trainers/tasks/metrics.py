"""The content of metrics.json."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmm_torch.detection import FailureDetector
from gmm_torch.files import atomic_path
from trainers.budget_evidence import verdict_facts
from trainers.evaluation_module import Scored
from trainers.evidence import (
    class_false_alarms,
    error_evidence,
    false_alarm_rates,
    holm_correct,
    source_evidence,
)
from trainers.report import TEST
from trainers.tasks.held_out import held_out_log_likelihood
from trainers.tasks.run import Run

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "foolbox", "scikit-learn", "gmm_torch")


def metrics_of(
    run: Run,
    detector: FailureDetector,
    scored: Mapping[str, Scored],
    labels: Tensor,
    attacks: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of metrics.json: evidence for every source, and what it was measured with."""
    clean = scored[TEST]
    wrong = clean.prediction != labels
    softmax = {"max_softmax": clean.max_softmax}
    sources = {"errors": error_evidence(clean.score, wrong, softmax, clean.p_value, clean.prediction)}
    for source, part in scored.items():
        if source == TEST:
            continue
        good = ~wrong if source.startswith("adversarial/") else torch.ones_like(wrong)
        baselines = {"max_softmax": (clean.max_softmax[good], part.max_softmax)}
        sources[source] = source_evidence(clean.score[good], part.score, baselines)
        if facts := attacks.get(source):
            sources[source] |= {**facts, **verdict_facts(part.accept, facts["n_attacked"])}
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
        "held_out_log_likelihood": held_out_log_likelihood(run, detector),
        "seed": run.cfg.seed,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "device": device_name(detector.device),
    }


def device_name(device: torch.device) -> str:
    """What the GPU is called, or the kind of processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def write_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Write it; a number that is not finite raises ValueError."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
