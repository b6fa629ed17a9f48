"""Calibration scores that count differently: what calibrations with weights share."""

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from gmm_torch.checks import check_probability
from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.p_values import calibration_size, rank, refused
from gmm_torch.conformal.weighted_p_value import (
    check_log_weight,
    cumulative_weights,
    effective_sample_size,
    largest_log_weight,
    ordered_weights,
    smoothed_quotient,
    weighted_quotient,
    weighted_threshold,
)
from gmm_torch.devices import widest
from gmm_torch.errors import NotFittedError, WeightsError, WeightsWarning, warn

# Effective sample size below which rates of two to three times alpha were measured; see docs/guarantees.md.
DOUBTFUL = 100.0

# Of inputs: statistics (n, S) of a score, predicted classes (n,), and labels (n,) where there are some.
Sample = tuple[Tensor, Tensor, Tensor | None]


class WeightedScores(Calibration):
    """Calibration scores with weights; see `weighted_p_value` for the guarantee.

    The calibration weights must sum to so much that even an input of `largest_weight` is refused at alpha where its
    score is below all others: else what is furthest from the calibration inputs, and so has the largest weight, would
    be accepted whatever its score. With weights of 1 this is the number of inputs that `Calibration` asks for.
    """

    is_weighted = True
    needs_labels: ClassVar[bool] = False  # of calibration and reference inputs
    sized = ("scores", "log_weights_of_scores")
    subject: ClassVar[str]  # what the weights come from, for messages
    log_weights_of_scores: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_weights_of_scores", torch.empty(0))  # (n,), of `scores`
        self.register_buffer("total", torch.zeros(1), persistent=False)  # (n + 1,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"  # without the parts, which say nothing of the promise

    @property
    def largest_weight(self) -> float:
        """No weight of an input is above it, where calibration inputs have a mean weight of 1."""
        return float(self.log_largest.exp())

    @property
    def is_adapted(self) -> bool:
        """Whether there are weights."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop the scores."""
        for name in self.sized:
            setattr(self, name, getattr(self, name)[:0])

    def adapt(self, reference: Sample, deployment: Sample) -> Self:
        """Learn how deployment inputs differ from reference inputs, which come from where calibration inputs do.

        The scores are dropped: calibration inputs must be none of these. Where it `needs_labels`, those of the
        reference inputs are read.

        Raises:
            ValueError: too few of them, or what else the weights can't be learnt from.
        """
        raise NotImplementedError

    def log_weights(self, statistics: Tensor, predictions: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N,) log-weights of inputs, of statistics (N, S) and predictions (N,).

        For `fit` with the labels (N,) of calibration inputs where it `needs_labels`, else without.

        Raises:
            NotFittedError: before `adapt`.
        """
        raise NotImplementedError

    def describe(self, class_names: Sequence[str] | None = None) -> str:
        """See `Calibration`: what the weights are, and what they are worth."""
        return self.extra_repr()

    @property
    def effective_size(self) -> float:
        """Effective sample size of the calibration scores: (sum w)^2 / sum w^2."""
        return effective_sample_size(self.log_weights_of_scores)

    def n_carrying(self, share: float) -> int:
        """How many of the calibration scores, the heaviest first, carry a share of all the weight."""
        shares = self.log_weights_of_scores.double().softmax(0).sort(descending=True).values.cumsum(0)
        return int((shares < share * (1 - 1e-9)).sum()) + 1

    @property
    def in_words(self) -> str:
        """How much the scores are worth, for `repr`."""
        if not len(self):
            return "no scores yet, promises nothing"
        said = f"{len(self)} scores, effective sample size {self.effective_size:.1f}"
        if self.effective_size < DOUBTFUL:
            return f"{said}, so little that the rate may be several times alpha: check it on good inputs"
        return said

    def smallest(self, alpha: float) -> int:
        """See `Calibration`; of inputs with a mean weight of 1."""
        return max(1, math.ceil(self.largest_weight * calibration_size(alpha) * (1 - 1e-9)))

    def require(self, alpha: float, n: int) -> None:
        """See `Calibration`; raises `NotFittedError` before `adapt`."""
        self._check_adapted()
        self.require_size(alpha, n)

    def require_size(self, alpha: float, n: int) -> None:
        """`require`, as far as it can be told before there are weights."""
        super().require(alpha, n)

    def fit(
        self, scores: Tensor, alpha: float, *, predictions: Tensor | None = None, log_weight: Tensor | None = None
    ) -> Self:
        """Take over calibration scores (n,), finite, with log-weights (n,) as `log_weights` gives them.

        Raises:
            ValueError: not finite, no log-weights, or too few of them.
            WeightsError: weights so small that nothing can be promised at alpha; the message says what to do.
            NotFittedError: there are no weights yet.
        """
        if log_weight is None:
            raise ValueError("log-weights: expected one per calibration score; got none: give those of `log_weights`")
        scores, log_weight = ordered_weights(scores, log_weight)
        self.require(alpha, len(scores))
        self.require_weight(alpha, log_weight)
        self.scores, self.log_weights_of_scores = scores, log_weight
        self._index()
        size = self.effective_size
        if size < DOUBTFUL:
            warn(
                f"calibration: of {len(scores)} scores the weights leave an effective sample size of "
                f"{size:.1f}; below {DOUBTFUL:g} good inputs were refused at two to three times alpha: "
                "check the rate on good inputs from deployment, or calibrate on these",
                WeightsWarning,
            )
        return self

    def target(self, alpha: float) -> Self:
        """See `Calibration`."""
        super().target(alpha)
        if len(self):
            self.require_weight(alpha, self.log_weights_of_scores)
        return self

    def require_weight(self, alpha: float, log_weight: Tensor) -> None:
        """Raise unless calibration inputs weigh so much that an input of the largest weight can be refused."""
        total, largest = cumulative_weights(log_weight), largest_log_weight(log_weight)
        least = weighted_quotient(total, largest, total.new_zeros(1).long(), self.log_largest.expand(1))
        if not bool(refused(least, alpha)):
            raise WeightsError(
                f"calibration weights: alpha={alpha:g} needs a sum of at least {self.smallest(alpha)}, "
                f"{calibration_size(alpha)} times the largest weight; got {float(log_weight.exp().sum()):.3g} from "
                f"{len(log_weight)} inputs, whose effective sample size is {effective_sample_size(log_weight):.1f}: "
                f"{self.subject} lie where too few calibration inputs do; calibrate on good inputs from there, give "
                f"more calibration inputs, or choose {self.eased_by}"
            )

    @property
    def log_largest(self) -> Tensor:
        """Logarithm of `largest_weight`, (), without a look at its value."""
        raise NotImplementedError

    def p_value(
        self,
        score: Tensor,
        predictions: Tensor | None = None,
        *,
        uniform: Tensor | None = None,
        log_weight: Tensor | None = None,
    ) -> Tensor:
        """(N,) p-values of scores (N,) with log-weights (N,) as `log_weights` gives them; see `weighted_p_value`."""
        log_weight = self._check(score, log_weight)
        up_to = rank(score, self.scores)
        largest = largest_log_weight(self.log_weights_of_scores)
        if uniform is None:
            return weighted_quotient(self.total, largest, up_to, log_weight)
        below = rank(score, self.scores, right=False)
        return smoothed_quotient(self.total, largest, below, up_to, log_weight, uniform)

    def accepts(
        self, score: Tensor, predictions: Tensor | None = None, *, alpha: float, log_weight: Tensor | None = None
    ) -> Tensor:
        """See `Calibration`."""
        return ~refused(self.p_value(score, log_weight=log_weight), alpha)

    def realised_rate(self, alpha: float, confidence: float = 0.95) -> None:
        """None: the threshold is not one for all inputs."""

    def threshold(self, alpha: float, *, log_weight: Tensor | None = None) -> Tensor:
        """(N,) scores at and above which inputs with these log-weights (N,) are accepted.

        Without log-weights (), that of the largest weight: what scores less is refused, whatever its weight.
        """
        self._check_fitted()
        check_probability("alpha", alpha)
        given = self.log_largest.expand(1) if log_weight is None else self._cut(log_weight)
        k = weighted_threshold(self.total, largest_log_weight(self.log_weights_of_scores), given, alpha)
        found = torch.where(k > 0, self.scores[(k - 1).clamp_min(0)], -torch.inf)
        return found[0] if log_weight is None else found

    def _cut(self, log_weight: Tensor) -> Tensor:
        """None above the largest, NaN as the largest."""
        log_weight, most = log_weight.detach().to(self.total), self.log_largest.to(self.total)
        return torch.where(log_weight.isnan(), most, log_weight).minimum(most)

    def _check(self, score: Tensor, log_weight: Tensor | None) -> Tensor:
        self._check_fitted()
        if log_weight is None:
            raise ValueError("log-weights: expected one per score; got none: give those of `log_weights`")
        check_log_weight(log_weight, score)
        return self._cut(log_weight)

    def _check_adapted(self) -> None:
        if not self.is_adapted:
            raise NotFittedError(
                f"calibration {self.name!r} has no weights yet: call adapt(deployment, reference) before calibrate"
            )

    def _index(self) -> None:
        """See `Calibration`."""
        self.total = cumulative_weights(self.log_weights_of_scores).to(widest(self.scores.device))

    def _is_ordered(self) -> bool:
        log_weights = self.log_weights_of_scores
        known = log_weights.is_floating_point() and bool((log_weights < torch.inf).all())  # NaN is not
        return known and self.scores.shape == log_weights.shape and super()._is_ordered()
