"""The content of metrics.json."""

import functools
import json
import operator
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.summary import diagnose, looked_at
from gmm_torch.detector.weights import fingerprint
from gmm_torch.files import write_text
from trainers.data.image_files import SHOWN
from trainers.evaluation.attacks import verdict_facts
from trainers.evaluation.detection_metrics import (
    class_false_alarms,
    error_metrics,
    false_alarm_rates,
    holm_correct,
    source_metrics,
)
from trainers.evaluation.diagnosis import fitted_to, softmax_wins
from trainers.evaluation.held_out import held_out_log_likelihood
from trainers.records.record import TEST, Records
from trainers.run.run import Run

TIME = "seconds_per_image"
TIMINGS = "timings.json"
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "foolbox", "scikit-learn", "gmm_torch")


def metrics_of(
    run: Run, detector: FailureDetector, records: Mapping[str, Records], attacks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of metrics.json: how well each source of failure is told, and what it was measured with.

    Args:
        run, detector: what decided.
        records: source -> records, the clean test images among them.
        attacks: source -> `attack_facts`, of the attacks among the sources.
    """
    clean, every = records[TEST], Records.cat(list(records.values()))
    sources = {"errors": error_metrics(clean)}
    for source in [name for name in records if name != TEST]:
        failures = every.rows(every.failures(source))
        sources[source] = source_metrics(every.rows(every.good(source)), failures)
        if facts := attacks.get(source):
            sources[source] |= {**facts, **verdict_facts(failures.accept, facts["n_attacked"])}
    findings = [*fitted_to(run, detector), *softmax_wins(sources), *diagnose(detector)]
    return {
        "title": run.cfg.title,
        "alpha": detector.alpha,
        "classifier": {
            "test_accuracy": float((~clean.wrong).double().mean()),
            "fingerprint": fingerprint(detector.classifier),
        },
        "calibration": {
            "n": len(detector.calibration),
            "grid": detector.calibration.grid,
            **(rates := false_alarm_rates(clean.p_value)),
            "realised_rate": {a: detector.calibration.realised_rate(float(a)) for a in rates["false_alarm_rate"]},
            "by_class": class_false_alarms(clean.p_value, clean.prediction),
        },
        "sources": holm_correct(sources),
        "findings": [finding._asdict() for finding in findings],
        "splits": {name: len(index) for name, index in run.data.indices.items()},
        "left_out": _left_out(run),
        "component_of": detector.score.component_of,  # the mixture that scores.csv names components of
        "data_fingerprint": run.data.fingerprint(),
        "n_fitted": detector.n_fitted,
        "n_kept": detector.n_kept,
        "n_held_out_of_mixtures": detector.held_out_of(detector.n_kept),
        "looked_at": looked_at(detector),
        "held_out_log_likelihood": held_out_log_likelihood(run, detector),
        "seed": run.cfg.seed,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "device": device_name(detector.device),
    }


def _left_out(run: Run) -> dict[str, dict[str, Any]]:
    """Of each data set with files that can't be read: n, how many, and files, the first of them."""
    sets = {"train": run.data.training_images, "test": run.data.test_images}
    sets |= {f"ood/{name}": images for name, images in run.ood.items()}
    return {
        name: {"n": len(images.left_out), "files": list(images.left_out)[:SHOWN]}
        for name, images in sets.items()
        if images.left_out
    }


def device_name(device: torch.device) -> str:
    """What the GPU is called, or the kind of processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def write_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Write it, and what took how long to `timings.json` beside it, so that equal runs have equal bytes here.

    A number that is not finite raises ValueError.
    """
    write_json(without_times(metrics), path)
    if found := list(times(metrics)):
        write_json([{"where": where, TIME: seconds} for where, seconds in found], path.with_name(TIMINGS))


def read_metrics(path: Path) -> dict[str, Any]:
    """What `write_metrics` wrote, times included."""
    metrics: dict[str, Any] = json.loads(path.read_text())
    timings = path.with_name(TIMINGS)
    for entry in json.loads(timings.read_text()) if timings.exists() else []:
        functools.reduce(operator.getitem, entry["where"], metrics)[TIME] = entry[TIME]
    return metrics


def write_json(value: Any, path: Path) -> None:
    """Write it whole or not at all; a number that is not finite raises ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def without_times(value: Any) -> Any:
    """The same mappings and lists without the key `TIME`."""
    if isinstance(value, Mapping):
        return {key: without_times(item) for key, item in value.items() if key != TIME}
    return [without_times(item) for item in value] if isinstance(value, list | tuple) else value


def times(value: Any, where: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], float | None]]:
    """Where in mappings and lists the key `TIME` stands, and what it says."""
    if isinstance(value, Mapping):
        if TIME in value:
            yield where, value[TIME]
        for key, item in value.items():
            yield from times(item, (*where, key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from times(item, (*where, i))
