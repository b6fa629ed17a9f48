"""A detector on labelled inputs and on others: the numbers that a training run logs."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from gmm_torch.detector import FailureDetector
from gmm_torch.distributed import gather_rows
from gmm_torch.evaluation.ranks import unit_ranks
from gmm_torch.evaluation.risk_coverage import aurc
from gmm_torch.evaluation.threshold import fpr_at_tpr
from gmm_torch.features.inputs import NO_BATCH, changed, check_loader, inputs_of, labels_of

ERRORS = "errors"


class Predicted(NamedTuple):
    """Records of the N inputs of all processes."""

    score: Tensor  # (N,), higher = more typical
    max_softmax: Tensor  # (N,)
    refused: Tensor  # (N,) bool
    wrong: Tensor  # (N,) bool; without labels all True


def evaluate(
    detector: FailureDetector, loader: Iterable[Any], ood: Mapping[str, Iterable[Any]] | None = None
) -> dict[str, float]:
    """Metrics of how a detector finds wrong predictions and out-of-distribution inputs, next to the softmax.

    In several processes each gives loaders of its own share, which may be empty, and gets the numbers of all.

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
    return {name: value for name, value in measure(detector, loader, ood).items() if value is not None}


def measure(
    detector: FailureDetector, loader: Iterable[Any], ood: Mapping[str, Iterable[Any]] | None = None
) -> dict[str, float | None]:
    """As `evaluate`; what is undefined is None."""
    check_sources(ood)
    clean = predict(detector, loader, "loader", labelled=True)
    right = ~clean.wrong
    found: dict[str, float | None] = {"accuracy": _mean(right), "false_alarm_rate": _mean(clean.refused)}
    found |= _source(ERRORS, clean, right, Predicted(*(value[clean.wrong] for value in clean)))
    for ours, score in (("aurc", clean.score), ("softmax_aurc", clean.max_softmax)):
        found[f"{ERRORS}/{ours}"] = float(aurc(score, clean.wrong))
    for name, batches in (ood or {}).items():
        found |= _source(name, clean, right, predict(detector, batches, f"ood[{name!r}]", labelled=False))
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


@torch.no_grad()
def predict(detector: FailureDetector, loader: Iterable[Any], what: str, *, labelled: bool) -> Predicted:
    """Records of the inputs of a loader, of all processes; `what` is the name of that argument in errors."""
    check_loader(loader, what)
    nothing = torch.empty(0, dtype=torch.float64, device=detector.device)
    parts = [Predicted(nothing, nothing, nothing.bool(), nothing.bool())]  # of a process without inputs
    for batch in loader:
        adapter = detector.extractor.adapter
        x = changed(inputs_of(batch, adapter), lambda value: value.to(detector.device))
        verdict = detector(detector.extractor(x))
        wrong = torch.ones_like(verdict.accept)
        if labelled:
            wrong = verdict.prediction != labels_of(batch, adapter).to(verdict.prediction)
        softmax = verdict.logits.softmax(-1).amax(-1)
        parts.append(Predicted(verdict.score.double(), softmax.double(), ~verdict.accept, wrong))
    found = Predicted(*(gather_rows(torch.cat(values)) for values in zip(*parts, strict=True)))
    if not len(found.score):
        raise ValueError(f"{what}: {NO_BATCH}")
    return found


def _source(name: str, clean: Predicted, right: Tensor, failures: Predicted) -> dict[str, float | None]:
    n = len(failures.score)
    found: dict[str, float | None] = {"n": float(n), "refused": _mean(failures.refused) if n else None}
    defined = n > 0 and bool(right.any())
    softmax = clean.max_softmax, failures.max_softmax
    for prefix, of_clean, bad in (("", clean.score, failures.score), ("softmax_", *softmax)):
        good = of_clean[right]
        is_good = torch.arange(len(good) + n, device=good.device) < len(good)
        auroc = binary_auroc(unit_ranks(torch.cat([good, bad])), is_good.long()) if defined else None
        found[f"{prefix}auroc"] = None if auroc is None else float(auroc)
        found[f"{prefix}fpr95"] = float(fpr_at_tpr(good, bad)) if defined else None
    return {f"{name}/{key}": value for key, value in found.items()}


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())
