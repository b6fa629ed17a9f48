"""Metrics of a detector on labelled and out-of-distribution inputs."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from gmm_torch.detector import FailureDetector
from gmm_torch.distributed import gather_rows
from gmm_torch.evaluation.metrics import aurc, fpr_at_tpr, unit_ranks
from gmm_torch.features.inputs import NO_BATCH, changed, check_loader, inputs_of, labels_of

ERRORS = "errors"


def evaluate(
    detector: FailureDetector, loader: Iterable[Any], ood: Mapping[str, Iterable[Any]] | None = None
) -> dict[str, float]:
    """Metrics of how a detector finds wrong predictions and out-of-distribution inputs, next to the softmax.

    In several processes each gives loaders of its share, which may be empty, and gets the numbers of all.

    Args:
        detector: fitted and calibrated.
        loader: batches (x, label, ...) of in-distribution inputs that are new to classifier and detector, label (n,)
            int64.
        ood: name -> batches x or (x, ...) of out-of-distribution inputs; labels are ignored.

    Returns:
        `accuracy`, and `false_alarm_rate`, the share of the loader's inputs with p <= alpha. For each source, which is
        `errors` (wrong predictions of the loader) or a name of `ood`: `<source>/n`, `<source>/refused` (the share with
        p <= alpha), and, against the right predictions, `<source>/auroc` and `<source>/fpr95` (the share accepted where
        95 % of the right predictions are), with those of the largest softmax probability as `<source>/softmax_auroc`
        and `<source>/softmax_fpr95`. `errors/aurc` and `errors/softmax_aurc` are the areas under the risk-coverage
        curve, lower is better. What is undefined, because no prediction is wrong or none is right, is left out.

    Raises:
        NotFittedError: the detector is not fitted and calibrated.
        ValueError: a loader without batches, batches without labels, a name of `ood` that is taken.
        TypeError: something else than batches, loaders of `ood` without names.
    """
    return {name: value for name, value in measure(detector, loader, ood).items() if not math.isnan(value)}


def measure(
    detector: FailureDetector, loader: Iterable[Any], ood: Mapping[str, Iterable[Any]] | None = None
) -> dict[str, float]:
    """As `evaluate`; undefined metrics are NaN."""
    check_sources(ood)
    clean = _judge(detector, loader, "loader", labelled=True)
    right = ~clean.wrong
    found = {"accuracy": _mean(right), "false_alarm_rate": _mean(clean.refused)}
    failures = {ERRORS: _Judged(*(value[clean.wrong] for value in clean))}
    for name, batches in (ood or {}).items():
        failures[name] = _judge(detector, batches, f"ood[{name!r}]", labelled=False)
    for name, bad in failures.items():
        n = len(bad.score)
        found |= {f"{name}/n": float(n), f"{name}/refused": _mean(bad.refused)}
        for prefix, of_clean, of_bad in (
            ("", clean.score, bad.score),
            ("softmax_", clean.max_softmax, bad.max_softmax),
        ):
            good = of_clean[right]
            auroc = fpr = math.nan
            if n and len(good):
                is_good = torch.arange(len(good) + n, device=good.device) < len(good)
                auroc = float(binary_auroc(unit_ranks(torch.cat([good, of_bad])), is_good.long()))
                fpr = float(fpr_at_tpr(good, of_bad))
            found |= {f"{name}/{prefix}auroc": auroc, f"{name}/{prefix}fpr95": fpr}
            if name == ERRORS:
                found[f"{name}/{prefix}aurc"] = float(aurc(of_clean, clean.wrong))
    return found


def check_sources(ood: object) -> None:
    """Raise TypeError unless out-of-distribution loaders, if any, have names, ValueError unless these are their own."""
    if ood is None:
        return
    if not isinstance(ood, Mapping):
        raise TypeError(f"ood: expected {{'name': loader, ...}}; got {type(ood).__name__}: give each loader a name")
    for name in ood:
        if not isinstance(name, str) or name == ERRORS or "/" in name or not name:
            raise ValueError(f"ood: expected names other than {ERRORS!r}, without a slash; got {name!r}: rename it")


class _Judged(NamedTuple):
    """The N inputs of all processes."""

    score: Tensor  # (N,), higher = more typical
    max_softmax: Tensor  # (N,)
    refused: Tensor  # (N,) bool
    wrong: Tensor  # (N,) bool; without labels all True


@torch.no_grad()
def _judge(detector: FailureDetector, loader: Iterable[Any], what: str, *, labelled: bool) -> _Judged:
    """The inputs of a loader, over all processes; `what` names the argument in errors."""
    check_loader(loader, what)
    nothing = torch.empty(0, dtype=torch.float64, device=detector.device)
    parts = [_Judged(nothing, nothing, nothing.bool(), nothing.bool())]  # of a process without inputs
    for batch in loader:
        adapter = detector.extractor.adapter
        x = changed(inputs_of(batch, adapter), lambda value: value.to(detector.device))
        verdict = detector(detector.extractor(x))
        wrong = torch.ones_like(verdict.accept)
        if labelled:
            wrong = verdict.prediction != labels_of(batch, adapter).to(verdict.prediction)
        softmax = verdict.logits.softmax(-1).amax(-1)
        parts.append(_Judged(verdict.score.double(), softmax.double(), ~verdict.accept, wrong))
    found = _Judged(*(gather_rows(torch.cat(values)) for values in zip(*parts, strict=True)))
    if not len(found.score):
        raise ValueError(f"{what}: {NO_BATCH}")
    return found


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())
