"""P-values by predicted class, so that no class bears all the false alarms."""

import math
from typing import Self

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

MOST_NAMED = 10  # classes, in words
MAX_NUMBERS = 2**28  # of the tables by class: a gigabyte


class MondrianCalibration(Calibration):
    """Calibration scores by predicted class: an input is ranked among those that the classifier gave the same class.

    Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world", section 4.5 (Mondrian conformal predictors).
    The guarantee: for an input exchangeable with the calibration inputs, P(p <= a | predicted class) <= a for every
    class with enough calibration inputs, and P(p <= a | predicted class is one of the pooled) <= a for the pool of the
    others, on average over calibration sets.

    Classes with fewer than `min_size` calibration inputs are pooled; if the pool is still too small, the smallest of
    the other classes join it. Classes are counted with the new input among them: only so is the pool the same whichever
    of the inputs is the new one, which makes the p-value exact.

    Args:
        n_classes: C of the classifier.
        min_size: calibration inputs that a class needs to stand alone; None for as many as alpha needs at least. Larger
            groups have false alarm rates closer to alpha.
    """

    name = "mondrian"
    sized = ("scores", "classes")
    classes: Tensor
    needed: Tensor
    sizes: Tensor
    table: Tensor
    members: Tensor

    def __init__(self, n_classes: int, min_size: int | None = None) -> None:
        super().__init__()
        if n_classes < 1 or (min_size is not None and min_size < 1):
            raise ValueError(f"n_classes and min_size: expected at least 1; got {n_classes} and {min_size}")
        if n_classes**2 > MAX_NUMBERS:
            raise ValueError(
                f"n_classes: expected at most {math.isqrt(MAX_NUMBERS)} for a table of pairs; got {n_classes}"
            )
        self.n_classes = n_classes
        self.min_size = min_size
        self.register_buffer("classes", torch.empty(0, dtype=torch.long))  # (n,) ascending; scores: within a class
        self.register_buffer("needed", torch.tensor(0))  # (), what min_size came to at `fit`
        self.register_buffer("sizes", torch.zeros(n_classes, dtype=torch.long), persistent=False)
        self.register_buffer("table", torch.empty(n_classes, 0), persistent=False)  # (C, largest class), + infinity
        self.register_buffer("members", torch.eye(n_classes, dtype=torch.bool), persistent=False)  # (C, C)

    def extra_repr(self) -> str:
        """Which classes are pooled."""
        pooled = self.pooled.nonzero()[:, 0].tolist()
        if not (len(self) and pooled):
            return f"{self.n_classes} classes" + (", each by itself" if len(self) else "")
        names = ", ".join(map(str, pooled[:MOST_NAMED])) + (", ..." if len(pooled) > MOST_NAMED else "")
        return (
            f"{len(pooled)} of {self.n_classes} classes are pooled, since one by itself needs {int(self.needed)} "
            f"calibration inputs: {names}"
        )

    @property
    def promise(self) -> str:
        """See `Calibration`."""
        return f"{super().promise}, in every predicted class that is not pooled"

    def smallest(self, alpha: float) -> int:
        """See `Calibration`."""
        return max(calibration_size(alpha), self.min_size or 0)

    def fit(self, scores: Tensor, alpha: float, *, predictions: Tensor | None = None) -> Self:
        """Take over calibration scores (n,), finite, with the predicted classes (n,) of their inputs.

        Raises:
            ValueError: as for `Calibration`; predictions that are no classes.
        """
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
        """See `Calibration`: alpha decides how many inputs a class needs to stand alone."""
        super().target(alpha)
        if len(self):
            self.needed = torch.full_like(self.needed, self.smallest(alpha))
            self._index()
        return self

    @property
    def pooled(self) -> Tensor:
        """(C,) bool, whether the inputs of a class are compared with those of other classes too."""
        return self.members.sum(1) > 1

    @property
    def group_sizes(self) -> Tensor:
        """(C,) int64, among how many calibration scores an input of each class is ranked."""
        return (self.members * self.sizes).sum(1)

    def p_value(self, score: Tensor, predictions: Tensor | None = None, *, uniform: Tensor | None = None) -> Tensor:
        """p = (1 + #{scores of the group <= score}) / (group size + 1), (N,), for predicted classes (N,).

        See `conformal_p_value`; with `uniform`, (N,), see `smoothed_p_value`: exactly uniform on clean inputs of each
        class that stands alone and of the pool, ties or not.
        """
        predictions = self._check(score, predictions)
        size = self.group_sizes[predictions] + 1
        up_to = self._rank(score, predictions, right=True)
        if uniform is None:
            return quotient(1 + up_to, size)
        return quotient(smoothed_count(self._rank(score, predictions, right=False), up_to, uniform), size)

    def accepts(self, score: Tensor, predictions: Tensor | None = None, *, alpha: float) -> Tensor:
        """See `Calibration`."""
        predictions = self._check(score, predictions)
        return exceeds(1 + self._rank(score, predictions, right=True), self.group_sizes[predictions] + 1, alpha)

    def realised_rate(self, alpha: float, confidence: float = 0.95) -> None:
        """None: the threshold is not one for all inputs."""

    def threshold(self, alpha: float) -> Tensor:
        """(C,) scores at and above which `accepts`, by predicted class; minus infinity where everything is accepted."""
        self._check_fitted()
        scores, order = self.scores.sort()
        classes = self.classes[order]
        ranks = threshold_index(alpha, self.group_sizes)  # (C,)
        n_classes = rows_at_once(scores.device, len(scores) * ranks.element_size())
        places = [
            (own[:, classes].cumsum(1) < rank[:, None]).sum(1)  # how many scores come before the one of that rank
            for own, rank in zip(self.members.split(n_classes), ranks.split(n_classes), strict=True)
        ]
        return torch.where(ranks > 0, scores[torch.cat(places).clamp_max(len(scores) - 1)], -torch.inf)

    def _check(self, score: Tensor, predictions: Tensor | None) -> Tensor:
        self._check_fitted()
        predictions = _checked(predictions, score)
        if predictions.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere a look would wait
            check_classes("predictions", predictions, self.n_classes)
        return predictions

    def _rank(self, score: Tensor, predictions: Tensor, *, right: bool) -> Tensor:
        """(N,) int64, how many scores of each input's group lie below its score, those equal to it included or not."""
        dtype = torch.promote_types(score.dtype, self.table.dtype)  # see `rank`
        columns = comparable(score).to(dtype).expand(self.n_classes, -1).contiguous()  # (C, N)
        # plus infinity must not count what fills the table up
        below = torch.minimum(torch.searchsorted(self.table.to(dtype), columns, right=right), self.sizes[:, None])
        return (self.members[predictions] * below.T).sum(1)

    def _index(self) -> None:
        """See `Calibration`."""
        self.sizes = torch.bincount(self.classes, minlength=self.n_classes)
        place = torch.arange(len(self), device=self.scores.device)
        place = place - (self.sizes.cumsum(0) - self.sizes)[self.classes]
        shape = (self.n_classes, int(self.sizes.max()))
        if math.prod(shape) > MAX_NUMBERS:
            raise ValueError(f"calibration scores: a table of {shape[0]} classes by {shape[1]} inputs is too large")
        self.table = self.scores.new_full(shape, torch.inf)
        self.table[self.classes, place] = self.scores
        counts = self.sizes.tolist()
        groups = [_group(c, counts, int(self.needed)) for c in range(self.n_classes)]
        self.members = torch.zeros(self.n_classes, self.n_classes, dtype=torch.bool)
        for c, group in enumerate(groups):
            self.members[c, group] = True
        self.members = self.members.to(self.scores.device)

    def _is_ordered(self) -> bool:
        _checked(self.classes, self.scores)
        check_classes("predictions", self.classes, self.n_classes)
        step = self.classes.diff()
        return bool(((step > 0) | ((step == 0) & (self.scores.diff() >= 0))).all())


def _checked(predictions: Tensor | None, scores: Tensor) -> Tensor:
    """Predictions (N,) int64 of scores (N,); raises unless they are."""
    if predictions is None or predictions.shape != scores.shape or scores.dim() != 1 or predictions.is_floating_point():
        got = "none" if predictions is None else f"{tuple(predictions.shape)} of {predictions.dtype}"
        raise ValueError(
            f"predictions: expected one class per score, shape {tuple(scores.shape)} of integers; got {got}: give the "
            "classes that the classifier predicts"
        )
    return predictions


def _group(c: int, counts: list[int], needed: int) -> list[int]:
    """The classes that an input of class c is compared with: a function of the counts with that input included."""
    counts = [count + (k == c) for k, count in enumerate(counts)]
    pool = [k for k, count in enumerate(counts) if count <= needed]
    size = sum(counts[k] for k in pool)
    others = sorted((k for k, count in enumerate(counts) if count > needed), key=lambda k: (counts[k], k))
    while 0 < size <= needed and others:
        joining = others.pop(0)
        pool.append(joining)
        size += counts[joining]
    return sorted(pool) if c in pool else [c]
