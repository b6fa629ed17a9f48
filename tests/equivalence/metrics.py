"""Metrics: ours beside torchmetrics, scikit-learn, and loops written out."""

import itertools
import math
from functools import cache, partial

import numpy as np
import torch
from sklearn import metrics as reference
from torch import Tensor
from torchmetrics.classification import BinaryAUROC

from gmm_torch.evaluation.metrics import augrc, aurc, excess_aurc, fpr_at_tpr
from tests.equivalence.rows import Row, asked, near
from trainers.evaluation.detection_metrics import detection_metrics, risk_coverage_metrics

N = 150


@cache
def scores(kind: str) -> Tensor:
    """(N,) float32; `tied` has few values, `far` are log-likelihoods far below zero, `infinite` has infinities."""
    drawn = torch.randn(N, generator=torch.Generator().manual_seed(0))
    if kind == "tied":
        return drawn.mul(2).round()
    if kind == "far":
        return 1000 * drawn - 90_000
    if kind == "infinite":
        return torch.where(torch.arange(N) % 10 == 0, -math.inf, drawn)
    return drawn


@cache
def wrong() -> Tensor:
    """(N,) bool: more often where `scores` are low."""
    return scores("drawn") + torch.randn(N, generator=torch.Generator().manual_seed(1)) < -0.8


def finite(kind: str) -> np.ndarray:
    """The scores as ranks, for those who want finite numbers."""
    return scores(kind).unique(return_inverse=True)[1].double().numpy()


def pairs(kind: str) -> float:
    """P(good > failure) + P(equal) / 2."""
    good, bad = scores(kind)[~wrong()].tolist(), scores(kind)[wrong()].tolist()
    return sum((g > b) + 0.5 * (g == b) for g, b in itertools.product(good, bad)) / (len(good) * len(bad))


def fpr(kind: str) -> float:
    """The least share of failures at any threshold that is a score and accepts 95 % of the good."""
    good, bad = scores(kind)[~wrong()].tolist(), scores(kind)[wrong()].tolist()
    enough = [t for t in good if sum(g >= t for g in good) * 100 >= 95 * len(good)]
    return min(sum(b >= t for b in bad) / len(bad) for t in enough)


def fpr_by_curve(kind: str) -> float:
    """From scikit-learn's curve."""
    false, true, _ = reference.roc_curve(~wrong().numpy(), finite(kind), drop_intermediate=False)
    return float(false[true >= 0.95 - 1e-12].min())


def by_orders(kind: str, generalised: bool) -> float:
    """The area under the curve, its mean over 3,000 random orders of what is tied; exact where nothing is."""
    rng, values, loss = np.random.default_rng(0), finite(kind), wrong().numpy().astype(float)
    found = []
    for _ in range(3000 if kind in ("tied", "infinite") else 1):
        order = np.lexsort((rng.random(N), -values))
        risk = loss[order].cumsum()
        if generalised:
            steps = np.concatenate([[0.0], risk]) / N
            found.append(float(((steps[1:] + steps[:-1]) / 2).mean()))
        else:
            found.append(float((risk / np.arange(1, N + 1)).mean()))
    return float(np.mean(found))


def by_formula(kind: str) -> float:
    """AUGRC from AUROC and error rate: e (1 - e) (1 - AUROC) + e^2 / 2 (Traub et al. 2024)."""
    e = float(wrong().double().mean())
    return e * (1 - e) * (1 - pairs(kind)) + e * e / 2


def detected(kind: str, name: str, order: Tensor | None = None) -> float:
    """By the application's evidence."""
    rows = torch.arange(N) if order is None else order
    values, bad = scores(kind)[rows], wrong()[rows]
    return detection_metrics(values[~bad], values[bad])[name]


def other_order() -> Tensor:
    """Of the inputs."""
    return torch.randperm(N, generator=torch.Generator().manual_seed(2))


def torchmetrics_auroc(kind: str) -> float:
    """torchmetrics, given ranks, since it squeezes what is outside [0, 1]."""
    rank = torch.from_numpy(finite(kind))
    return float(BinaryAUROC()(rank / rank.max(), (~wrong()).long()))


def excess(kind: str) -> float:
    """AURC less that of the best order, written out."""
    best = np.sort(wrong().numpy().astype(float)).cumsum() / np.arange(1, N + 1)
    return by_orders(kind, False) - float(best.mean())


def table() -> list[Row]:
    """The rows of this theme."""
    ask = partial(asked, "metrics")
    rows: list[Row] = []
    for kind in ("drawn", "tied", "far", "infinite"):
        about = f"of scores that are {kind}"
        rows += ask(
            f"AUROC {about}",
            {
                "pair by pair": lambda k=kind: pairs(k),
                "evidence": near(lambda k=kind: detected(k, "auroc"), 1e-6),
                "evidence, another order": near(lambda k=kind: detected(k, "auroc", other_order()), 1e-6),
                "torchmetrics": near(lambda k=kind: torchmetrics_auroc(k), 1e-6),
                "scikit-learn": near(lambda k=kind: float(reference.roc_auc_score(~wrong().numpy(), finite(k))), 1e-9),
            },
        )
        rows += ask(
            f"average precision {about}",
            {
                "scikit-learn": lambda k=kind: float(reference.average_precision_score(~wrong().numpy(), finite(k))),
                "evidence": near(lambda k=kind: detected(k, "aupr_in"), 1e-6),
            },
        )
        rows += ask(
            f"average precision of failures {about}",
            {
                "scikit-learn": lambda k=kind: float(reference.average_precision_score(wrong().numpy(), -finite(k))),
                "evidence": near(lambda k=kind: detected(k, "aupr_out"), 1e-6),
            },
        )
        rows += ask(
            f"FPR at 95 % TPR {about}",
            {
                "every threshold": lambda k=kind: fpr(k),
                "fpr_at_tpr": near(lambda k=kind: float(fpr_at_tpr(scores(k)[~wrong()], scores(k)[wrong()])), 1e-12),
                "evidence": near(lambda k=kind: detected(k, "fpr_at_95_tpr"), 1e-12),
                "scikit-learn's curve": near(lambda k=kind: fpr_by_curve(k), 1e-12),
            },
        )
        # ties: the mean of random orders has a standard error below 2e-4, so 2e-3 fails falsely less than once in 1e9
        for name, function in (("AURC", aurc), ("AUGRC", augrc)):
            rows += ask(
                f"{name} {about}",
                {
                    "the function": lambda k=kind, f=function: float(f(scores(k), wrong())),
                    "another order": near(
                        lambda k=kind, f=function: float(f(scores(k)[other_order()], wrong()[other_order()])), 1e-12
                    ),
                    "evidence": near(
                        lambda k=kind, n=name: risk_coverage_metrics(scores(k), wrong())[n.lower()], 1e-12
                    ),
                    "a loop": near(
                        lambda k=kind, n=name: by_orders(k, n == "AUGRC"),
                        2e-3 if kind in ("tied", "infinite") else 1e-12,
                        0,
                    ),
                },
            )
        rows += ask(
            f"AUGRC from AUROC {about}",
            {
                "the formula": lambda k=kind: by_formula(k),
                "augrc": near(lambda k=kind: float(augrc(scores(k), wrong())), 1e-9),
            },
        )
        if kind in ("drawn", "far"):
            rows += ask(
                f"excess AURC {about}",
                {
                    "a loop": lambda k=kind: excess(k),
                    "excess_aurc": near(lambda k=kind: float(excess_aurc(scores(k), wrong())), 1e-12),
                },
            )
    return rows
