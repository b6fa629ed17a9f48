"""How the proportions of classes changed, from predictions alone: black-box shift estimation."""

from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.checks import check_classes, check_count, check_probability
from gmm_torch.evaluation.counts import class_counts

MIN_SINGULAR_VALUE = 1e-3  # of the joint distribution, in units of 1 / C: that of a classifier that is always right


class ClassWeights(NamedTuple):
    """Estimates of w(y) = q(y) / p(y) for C classes.

    Attributes:
        weights: (C,) float64, >= 0, of mean 1 over the reference inputs' classes.
        low, high: (C,), a bootstrap interval of each.
        error: with the confidence of the intervals, sum_y p(y) |weights(y) - w(y)| / 2 is at most this, by the
            bootstrap: how far a false alarm rate may be off.
    """

    weights: Tensor
    low: Tensor
    high: Tensor
    error: float


def class_weights(
    predictions: Tensor,
    labels: Tensor,
    deployed: Tensor,
    n_classes: int,
    *,
    confidence: float = 0.95,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> ClassWeights:
    """Weights of classes whose proportions changed while inputs of each class look as they did.

    Solves sum_y P(prediction = i, label = y) w(y) = Q(prediction = i) for w (Lipton, Wang, Smola 2018, "Detecting and
    correcting for label shift with black box predictors", proposition 2); what is below zero is set to zero, and the
    mean to 1.

    Args:
        predictions, labels: (n,) int64, of reference inputs.
        deployed: (m,) int64, predictions of deployment inputs.
        n_classes: C.
        confidence: of the intervals, which are quantiles of `n_bootstrap` draws of both samples.

    Raises:
        ValueError: shapes, classes out of range, a class without reference inputs, or a classifier that does not tell
            classes apart.
    """
    check_probability("confidence", confidence)
    check_count("n_bootstrap", n_bootstrap)
    for name, value in (("predictions", predictions), ("labels", labels), ("deployment predictions", deployed)):
        if value.dim() != 1 or len(value) == 0 or value.is_floating_point():
            raise ValueError(f"{name}: expected integers (n,), n >= 1; got {tuple(value.shape)} of {value.dtype}")
        check_classes(name, value, n_classes)
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions and labels: expected as many; got {len(predictions)} and {len(labels)}")
    joint = class_counts(predictions.cpu(), labels.cpu(), n_classes, n_classes).double() / len(labels)
    marginal = torch.bincount(deployed.cpu(), minlength=n_classes).double() / len(deployed)
    missing = (joint.sum(0) == 0).nonzero()[:, 0].tolist()
    if missing:
        raise ValueError(f"reference inputs: expected some of every class; got none of {missing}: give more")
    smallest = float(torch.linalg.svdvals(joint)[-1]) * n_classes
    if smallest < MIN_SINGULAR_VALUE:
        raise ValueError(
            f"classifier: expected predictions that tell the classes apart; got a smallest singular value of "
            f"{smallest:.1g} (1 for one that is always right): give more reference inputs, or merge classes"
        )
    weights = _solved(joint, marginal)
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(n_bootstrap):  # one at a time: a joint distribution may be large
        drawn = _drawn(joint.flatten(), len(labels), generator).view_as(joint)
        draws.append(_solved(drawn, _drawn(marginal, len(deployed), generator)))
    found = torch.stack(draws)
    edge = (1 - confidence) / 2
    low, high = found.quantile(edge, dim=0), found.quantile(1 - edge, dim=0)
    error = ((found - weights).abs() * joint.sum(0)).sum(1) / 2
    return ClassWeights(weights, low, high, float(error.quantile(confidence)))


def _solved(joint: Tensor, marginal: Tensor) -> Tensor:
    """(C,), from a joint distribution (C, C) and a marginal (C,); at least 0, of mean 1."""
    solved = torch.linalg.lstsq(joint, marginal[:, None], driver="gelsd").solution[:, 0].clamp_min(0)
    mean = solved @ joint.sum(0)
    return solved / mean if mean > 0 else torch.ones_like(solved)


def _drawn(probabilities: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(K,), frequencies in a sample of n draws."""
    drawn = torch.multinomial(probabilities, n, replacement=True, generator=generator)
    return torch.bincount(drawn, minlength=len(probabilities)).double() / n
