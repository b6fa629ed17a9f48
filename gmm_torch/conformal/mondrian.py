"""P-values by predicted class, so that false alarms do not gather in one class."""

import math
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from gmm_torch.checks import check_classes, check_finite_scores
from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.p_values import (
    calibration_size,
    comparable,
    exceeds,
    quotient,
    smoothed_count,
    threshold_index,
)
from gmm_torch.devices import rows_at_once
from gmm_torch.evaluation.rates import interval

__all__ = ["ClassRate", "MondrianCalibration", "class_rates"]

_MOST_NAMED = 10  # pooled classes that `extra_repr` lists
_MAX_NUMBERS = 2**28  # of a table by class: a gigabyte


class MondrianCalibration(Calibration):
    """Calibration by predicted class: an input is ranked among calibration inputs with the same predicted class.

    Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world", section 4.5 (Mondrian conformal predictors).
    The guarantee: for an input exchangeable with the calibration inputs, P(p <= a | predicted class) <= a for every
    class with enough calibration inputs, and P(p <= a | predicted class is pooled) <= a for the pool of the other
    classes, on average over calibration sets.

    Classes with fewer than `min_size` calibration inputs are pooled; if the pool is still too small, the smallest other
    classes join it. Counts include the new input: then the pool does not depend on which input is the new one, which
    makes the p-value exact.

    Args:
        n_classes: C of the classifier.
        min_size: calibration inputs that a class needs to be separate; None for the least that alpha needs. Larger
            groups have false alarm rates closer to alpha.
    """

    name = "mondrian"
    promise = f"{Calibration.promise}, in every predicted class that is not pooled"
    _sized = ("scores", "classes")
    classes: Tensor
    needed: Tensor
    sizes: Tensor
    table: Tensor
    members: Tensor

    def __init__(self, n_classes: int, min_size: int | None = None) -> None:
        super().__init__()
        if n_classes < 1 or (min_size is not None and min_size < 1):
            raise ValueError(f"n_classes and min_size: expected at least 1; got {n_classes} and {min_size}")
        if n_classes**2 > _MAX_NUMBERS:
            raise ValueError(f"n_classes: expected at most {math.isqrt(_MAX_NUMBERS)}; got {n_classes}")
        self.n_classes = n_classes
        self.min_size = min_size
        self.register_buffer("classes", torch.empty(0, dtype=torch.long))  # (n,) ascending; scores ascend in a class
        self.register_buffer("needed", torch.tensor(0))  # (), `smallest` at the time of `fit`
        self.register_buffer("sizes", torch.zeros(n_classes, dtype=torch.long), persistent=False)
        self.register_buffer("table", torch.empty(n_classes, 0), persistent=False)  # (C, largest class), + infinity
        self.register_buffer("members", torch.eye(n_classes, dtype=torch.bool), persistent=False)  # (C, C)

    def extra_repr(self) -> str:
        """Pooled classes."""
        pooled = self.pooled.nonzero()[:, 0].tolist()
        if not (len(self) and pooled):
            return f"{self.n_classes} classes" + (", all separate" if len(self) else "")
        names = ", ".join(map(str, pooled[:_MOST_NAMED])) + (", ..." if len(pooled) > _MOST_NAMED else "")
        return (
            f"{len(pooled)} of {self.n_classes} classes are pooled, since a separate one needs {int(self.needed)} "
            f"calibration inputs: {names}"
        )

    def smallest(self, alpha: float) -> int:
        """See `Calibration`."""
        return max(calibration_size(alpha), self.min_size or 0)

    def fit(
        self, scores: Tensor, alpha: float, *, predictions: Tensor | None = None, log_weight: Tensor | None = None
    ) -> Self:
        """See `Calibration`; needs predictions."""
        check_finite_scores(scores)
        predictions = _checked(predictions, scores)
        check_classes("predictions", predictions, self.n_classes)
        self.require(alpha, len(scores))
        order = scores.detach().argsort(stable=True)
        order = order[predictions[order].argsort(stable=True)]
        self.scores, self.classes = scores.detach()[order], predictions[order].long()
        self.needed = torch.tensor(self.smallest(alpha), device=scores.device)
        self._index()
        return self

    def target(self, alpha: float) -> Self:
        """See `Calibration`: alpha changes how many inputs a separate class needs."""
        super().target(alpha)
        if len(self):
            self.needed = torch.full_like(self.needed, self.smallest(alpha))
            self._index()
        return self

    @property
    def pooled(self) -> Tensor:
        """(C,) bool, True for classes that are compared with other classes too."""
        return self.members.sum(1) > 1

    @property
    def group_sizes(self) -> Tensor:
        """(C,) int64, number of calibration scores that an input of each class is ranked among."""
        return (self.members * self.sizes).sum(1)

    def p_value(
        self,
        score: Tensor,
        predictions: Tensor | None = None,
        *,
        log_weight: Tensor | None = None,
        uniform: Tensor | None = None,
    ) -> Tensor:
        """p = (1 + #{scores of the group <= score}) / (group size + 1), (N,); needs predictions.

        With `uniform` exactly uniform on clean inputs of each separate class and of the pool; see `Calibration`.
        """
        predictions = self._check(score, predictions)
        size = self.group_sizes[predictions] + 1
        up_to = self._rank(score, predictions, right=True)
        if uniform is None:
            return quotient(1 + up_to, size)
        return quotient(smoothed_count(self._rank(score, predictions, right=False), up_to, uniform), size)

    def accepts(
        self, score: Tensor, predictions: Tensor | None = None, *, log_weight: Tensor | None = None, alpha: float
    ) -> Tensor:
        """See `Calibration`; needs predictions."""
        predictions = self._check(score, predictions)
        return exceeds(1 + self._rank(score, predictions, right=True), self.group_sizes[predictions] + 1, alpha)

    def realised_rate(self, alpha: float, confidence: float = 0.95) -> None:
        """None: thresholds differ between classes."""

    def threshold(self, alpha: float, predictions: Tensor | None = None, *, log_weight: Tensor | None = None) -> Tensor:
        """See `Calibration`; without predictions the threshold of each class, (C,)."""
        self._check_fitted()
        scores, order = self.scores.sort()
        classes = self.classes[order]
        ranks = threshold_index(alpha, self.group_sizes)  # (C,)
        n_classes = rows_at_once(scores.device, len(scores) * ranks.element_size())
        places = [
            (own[:, classes].cumsum(1) < rank[:, None]).sum(1)  # number of scores before the one of that rank
            for own, rank in zip(self.members.split(n_classes), ranks.split(n_classes), strict=True)
        ]
        found = torch.where(ranks > 0, scores[torch.cat(places).clamp_max(len(scores) - 1)], -torch.inf)
        return found if predictions is None else found[predictions]

    def _check(self, score: Tensor, predictions: Tensor | None) -> Tensor:
        self._check_fitted()
        predictions = _checked(predictions, score)
        if predictions.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere this would synchronise
            check_classes("predictions", predictions, self.n_classes)
        return predictions

    def _rank(self, score: Tensor, predictions: Tensor, *, right: bool) -> Tensor:
        """(N,) int64, number of scores in each input's group below its score, or up to it with `right`."""
        dtype = torch.promote_types(score.dtype, self.table.dtype)  # see `rank`
        columns = comparable(score).to(dtype).expand(self.n_classes, -1).contiguous()  # (C, N)
        # a score of plus infinity must not count the table's padding
        below = torch.minimum(torch.searchsorted(self.table.to(dtype), columns, right=right), self.sizes[:, None])
        return (self.members[predictions] * below.T).sum(1)

    def _index(self) -> None:
        self.sizes = torch.bincount(self.classes, minlength=self.n_classes)
        place = torch.arange(len(self), device=self.scores.device)
        place = place - (self.sizes.cumsum(0) - self.sizes)[self.classes]
        shape = (self.n_classes, int(self.sizes.max()))
        if math.prod(shape) > _MAX_NUMBERS:
            raise ValueError(f"calibration scores: a table of {shape[0]} classes by {shape[1]} inputs is too large")
        self.table = self.scores.new_full(shape, torch.inf)
        self.table[self.classes, place] = self.scores
        counts = self.sizes.tolist()
        members = torch.zeros(self.n_classes, self.n_classes, dtype=torch.bool)
        for c in range(self.n_classes):
            members[c, _group(c, counts, int(self.needed))] = True
        self.members = members.to(self.scores.device)

    def _is_ordered(self) -> bool:
        _checked(self.classes, self.scores)
        check_classes("predictions", self.classes, self.n_classes)
        step = self.classes.diff()
        return bool(((step > 0) | ((step == 0) & (self.scores.diff() >= 0))).all())


def _checked(predictions: Tensor | None, scores: Tensor) -> Tensor:
    if predictions is None or predictions.shape != scores.shape or scores.dim() != 1 or predictions.is_floating_point():
        got = "none" if predictions is None else f"{tuple(predictions.shape)} of {predictions.dtype}"
        raise ValueError(
            f"predictions: expected one class per score, shape {tuple(scores.shape)} of integers; got {got}: give the "
            "classes that the classifier predicts"
        )
    return predictions


def _group(c: int, counts: list[int], needed: int) -> list[int]:
    """Classes that an input of class c is compared with: a function of the counts with that input included."""
    counts = [count + (k == c) for k, count in enumerate(counts)]
    pool = [k for k, count in enumerate(counts) if count <= needed]
    size = sum(counts[k] for k in pool)
    others = sorted((k for k, count in enumerate(counts) if count > needed), key=lambda k: (counts[k], k))
    while 0 < size <= needed and others:
        joining = others.pop(0)
        pool.append(joining)
        size += counts[joining]
    return sorted(pool) if c in pool else [c]


class ClassRate(NamedTuple):
    """Refused inputs of one predicted class: their share, and its 95 % Clopper-Pearson interval."""

    name: int
    n: int
    n_refused: int
    rate: float
    interval: tuple[float, float]


def class_rates(refused: Tensor, prediction: Tensor) -> list[ClassRate]:
    """Refused inputs, (N,) bool, in each class that is predicted, (N,) integers; see `homogeneity`."""
    names, place = np.unique(prediction.detach().cpu().numpy(), return_inverse=True)
    sizes = np.bincount(place)
    counts = np.bincount(place, weights=refused.bool().cpu().numpy()).astype(int)
    return [
        ClassRate(int(name), int(n), int(k), float(k / n), interval(int(k), int(n)))
        for name, n, k in zip(names, sizes, counts, strict=True)
    ]
