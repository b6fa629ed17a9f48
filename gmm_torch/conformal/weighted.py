"""Weighted conformal p-values, for inputs that come from elsewhere than the calibration inputs."""

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from gmm_torch.checks import check_probability
from gmm_torch.conformal.calibration import Calibration, Unlabelled
from gmm_torch.conformal.density_ratio import DensityRatio
from gmm_torch.conformal.p_values import calibration_size, rank, refused
from gmm_torch.devices import widest
from gmm_torch.errors import NotFittedError, WeightsError, WeightsWarning, warn

__all__ = ["WeightedCalibration", "WeightedScores", "effective_sample_size", "weighted_p_value"]

# Effective sample size below which rates of two to three times alpha were measured. The least that alpha itself needs
# follows from the sum of weights, which in units of the largest weight is at most the effective sample size.
_DOUBTFUL = 100
_MANY_CUT = 2 / 3  # of the deployment inputs: max_weight, not the shift, then sets most weights
_UNSHIFTED = 0.05  # with a larger p-value of "no shift", weights have nothing to repair


class WeightedScores(Calibration):
    """Base of calibrations with weights; see `weighted_p_value` for the guarantee.

    The calibration weights must sum to enough that an input of the largest weight is refused at alpha if its score is
    below all others. Otherwise the inputs furthest from the calibration inputs, which have the largest weight, would be
    accepted for any score. With weights of 1 this is the number of inputs that `Calibration` needs.

    Subclasses define `is_adapted`, `log_largest`, `adapt` and `log_weights`.
    """

    needs_adapt = True
    subject: ClassVar[str]  # source of the weights, for messages
    _sized = ("scores", "log_weights_of_scores")
    log_weights_of_scores: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_weights_of_scores", torch.empty(0))  # (n,), of `scores`
        self.register_buffer("total", torch.zeros(1), persistent=False)  # (n + 1,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"  # without submodules, which say nothing of the guarantee

    @property
    def is_adapted(self) -> bool:
        """True once there are weights."""
        raise NotImplementedError

    @property
    def log_largest(self) -> Tensor:
        """(), upper bound of all log-weights, if calibration inputs have a mean weight of 1."""
        raise NotImplementedError

    def log_weights(self, sample: Unlabelled, labels: Tensor | None = None) -> Tensor:
        """See `Calibration`.

        Raises:
            NotFittedError: before `adapt`.
        """
        raise NotImplementedError

    def describe(self, class_names: Sequence[str] | None = None) -> str:
        """See `Calibration`."""
        return self.extra_repr()

    @property
    def effective_size(self) -> float:
        """Effective sample size of the calibration scores; see `effective_sample_size`."""
        return effective_sample_size(self.log_weights_of_scores)

    def n_carrying(self, share: float) -> int:
        """Number of calibration scores, the heaviest first, that carry a given fraction of all the weight."""
        shares = self.log_weights_of_scores.double().softmax(0).sort(descending=True).values.cumsum(0)
        return int((shares < share * (1 - 1e-9)).sum()) + 1

    def smallest(self, alpha: float) -> int:
        """See `Calibration`; of inputs with a mean weight of 1."""
        return max(1, math.ceil(float(self.log_largest.exp()) * calibration_size(alpha) * (1 - 1e-9)))

    def require(self, alpha: float, n: int) -> None:
        """See `Calibration`; raises `NotFittedError` before `adapt`."""
        self._check_adapted()
        self.require_size(alpha, n)

    def require_size(self, alpha: float, n: int) -> None:
        """`require` before there are weights."""
        super().require(alpha, n)

    def fit(
        self, scores: Tensor, alpha: float, *, predictions: Tensor | None = None, log_weight: Tensor | None = None
    ) -> Self:
        """See `Calibration`; needs log-weights (n,).

        Raises:
            WeightsError: weights so small that nothing can be promised at alpha; the message says what to do.
            NotFittedError: before `adapt`.
        """
        scores, log_weight = _ordered(scores, _given(log_weight))
        self.require(alpha, len(scores))
        self._require_weight(alpha, log_weight)
        self.scores, self.log_weights_of_scores = scores, log_weight
        self._index()
        if self.effective_size < _DOUBTFUL:
            warn(f"calibration: {self._worth}", WeightsWarning)
        return self

    def target(self, alpha: float) -> Self:
        """See `Calibration`."""
        super().target(alpha)
        if len(self):
            self._require_weight(alpha, self.log_weights_of_scores)
        return self

    def p_value(
        self,
        score: Tensor,
        predictions: Tensor | None = None,
        *,
        log_weight: Tensor | None = None,
        uniform: Tensor | None = None,
    ) -> Tensor:
        """(N,) p-values of scores (N,) with log-weights (N,); see `weighted_p_value`."""
        self._check_fitted()
        log_weight = _given(log_weight)
        _check_log_weight(log_weight, score)
        largest = _largest_log_weight(self.log_weights_of_scores)
        return _p_value(score, self._cut(log_weight), self.scores, self.total, largest, uniform)

    def accepts(
        self, score: Tensor, predictions: Tensor | None = None, *, log_weight: Tensor | None = None, alpha: float
    ) -> Tensor:
        """See `Calibration`."""
        return ~refused(self.p_value(score, log_weight=log_weight), alpha)

    def realised_rate(self, alpha: float, confidence: float = 0.95) -> None:
        """None: thresholds differ between inputs."""

    def threshold(self, alpha: float, predictions: Tensor | None = None, *, log_weight: Tensor | None = None) -> Tensor:
        """See `Calibration`; without log-weights the threshold of the largest weight, below which all are refused."""
        self._check_fitted()
        check_probability("alpha", alpha)
        given = self.log_largest.expand(1) if log_weight is None else self._cut(log_weight)
        k = _threshold_index(self.total, _largest_log_weight(self.log_weights_of_scores), given, alpha)
        found = torch.where(k > 0, self.scores[(k - 1).clamp_min(0)], -torch.inf)
        if log_weight is not None:
            return found
        return found[0] if predictions is None else found.expand(predictions.shape)

    def _forget(self) -> None:
        for name in self._sized:
            setattr(self, name, getattr(self, name)[:0])

    @property
    def _worth(self) -> str:
        """Description of the worth of the scores."""
        if not len(self):
            return "no scores yet, promises nothing"
        words = f"{len(self)} scores, effective sample size {self.effective_size:.1f}"
        if self.effective_size >= _DOUBTFUL:
            return words
        return (
            f"{words} of at least {_DOUBTFUL} needed: the rate may be two to three times alpha; check it on good "
            "inputs from deployment, or calibrate on these"
        )

    def _require_weight(self, alpha: float, log_weight: Tensor) -> None:
        """Raise unless calibration inputs weigh so much that an input of the largest weight can be refused."""
        total, largest = _cumulative_weights(log_weight), _largest_log_weight(log_weight)
        least = _quotient(total, largest, total.new_zeros(1).long(), self.log_largest.expand(1))
        if not bool(refused(least, alpha)):
            raise WeightsError(
                f"calibration weights: alpha={alpha:g} needs a sum of at least {self.smallest(alpha)}, "
                f"{calibration_size(alpha)} times the largest weight; got {float(log_weight.exp().sum()):.3g} from "
                f"{len(log_weight)} inputs, whose effective sample size is {effective_sample_size(log_weight):.1f}: "
                f"{self.subject} lie where too few calibration inputs do; calibrate on good inputs from there, give "
                f"more calibration inputs, or choose {self.remedy}"
            )

    def _cut(self, log_weight: Tensor) -> Tensor:
        """Log-weights up to the largest; NaN becomes the largest."""
        log_weight, most = log_weight.detach().to(self.total), self.log_largest.to(self.total)
        return torch.where(log_weight.isnan(), most, log_weight).minimum(most)

    def _check_adapted(self) -> None:
        if not self.is_adapted:
            raise NotFittedError(
                f"calibration {self.name!r} has no weights yet: call adapt(deployment, reference) before calibrate"
            )

    def _index(self) -> None:
        self.total = _cumulative_weights(self.log_weights_of_scores).to(widest(self.scores.device))

    def _is_ordered(self) -> bool:
        log_weights = self.log_weights_of_scores
        known = log_weights.is_floating_point() and bool((log_weights < torch.inf).all())  # False for NaN
        return known and self.scores.shape == log_weights.shape and super()._is_ordered()


class WeightedCalibration(WeightedScores):
    """Calibration for covariate shift: weights from unlabelled deployment inputs.

    The weights are the density ratio of a score's statistics (see `Score.statistics`) between deployment and reference
    inputs. For an input drawn like the deployment inputs, P(p <= a) <= a + the total variation distance between their
    distribution and the one that the weights stand for: 0 for exact weights that were not cut (Tibshirani, Barber,
    Candes, Ramdas 2019, "Conformal prediction under covariate shift"; for estimated weights, Lei and Candes 2021,
    "Conformal inference of counterfactuals and individual treatment effects", theorem 3). The score is a function of
    the statistics, so the only assumption is that deployment inputs lie where calibration inputs do.

    Reference inputs are drawn like the calibration inputs, but must differ from them. In a detector: `fit`,
    `adapt(deployment, reference)`, `calibrate`. If good inputs from deployment are at hand, calibrate on these with
    `Calibration`: that is exact. Weights are for deployment inputs that may include failures.

    Args:
        max_weight: see `DensityRatio`. It needs `max_weight` times the calibration inputs that `Calibration` needs at
            the same alpha.
    """

    name = "weighted"
    subject = "the deployment inputs"
    remedy = "a larger alpha or a smaller max_weight, to which more weights are cut"

    def __init__(self, max_weight: float = 5.0) -> None:
        super().__init__()
        self.ratio = DensityRatio(max_weight)
        self.max_weight = self.ratio.max_weight

    @property
    def log_largest(self) -> Tensor:
        """See `WeightedScores`."""
        return self.ratio.centre.new_full((), math.log(self.max_weight))

    @property
    def is_adapted(self) -> bool:
        """See `WeightedScores`."""
        return self.ratio.fitted

    def adapt(self, reference: Unlabelled, deployment: Unlabelled, *, labels: Tensor | None = None) -> Self:
        """See `Calibration`; uses the statistics alone.

        Raises:
            ValueError: see `DensityRatio.fit`.
        """
        self.ratio.fit(reference.statistics, deployment.statistics)
        self._forget()
        if self._cuts_most:
            warn(
                f"weights: {float(self.ratio.clipped):.1%} of the deployment inputs were cut to max_weight="
                f"{self.max_weight:g}: most lie where calibration inputs hardly do, and far more than alpha of the "
                "good ones may be refused; calibrate on good inputs from deployment, or choose a larger max_weight "
                "with more calibration inputs",
                WeightsWarning,
            )
        return self

    @property
    def _cuts_most(self) -> bool:
        return float(self.ratio.clipped) > _MANY_CUT

    def log_weights(self, sample: Unlabelled, labels: Tensor | None = None) -> Tensor:
        """See `Calibration`; uses the statistics alone."""
        self._check_adapted()
        return self._cut(self.ratio(sample.statistics))

    def extra_repr(self) -> str:
        """Properties of the weights, and their worth."""
        if not self.is_adapted:
            return "no weights yet, promises nothing: adapt(deployment, reference)"
        p = float(self.ratio.p_of_no_shift)
        doubt = ", so many that the rate may be far above alpha: check it on good inputs" if self._cuts_most else ""
        found = (
            f"weights up to {self.max_weight:g}, to which {float(self.ratio.clipped):.1%} of the deployment inputs "
            f"were cut{doubt}"
        )
        plain = f"; no shift was found (p = {p:.2g}): try plain calibration first" if p > _UNSHIFTED else ""
        return f"{found}{plain}; {self._worth}"


def weighted_p_value(
    score: Tensor,
    log_weight: Tensor,
    calibration: Tensor,
    calibration_log_weights: Tensor,
    *,
    uniform: Tensor | None = None,
) -> Tensor:
    """p = (sum of w_i over calibration scores <= score, + w) / (sum of all w_i, + w), the weighted conformal p-value.

    With w = dQ/dP, the likelihood ratio of the distributions of the new input (Q) and the calibration inputs (P),
    P(p <= a) <= a for every a, ties included (Tibshirani, Barber, Candes, Ramdas 2019, "Conformal prediction under
    covariate shift", lemma 3; as p-values, Jin and Candes 2023, "Model-free selective inference under covariate shift
    via weighted conformal p-values", equation 4). Only ratios of weights matter; equal ones give `conformal_p_value`.
    With weights of another distribution Q' the rate is off by at most the total variation distance of Q and Q'.

    Args:
        score: (N,), higher = more typical; NaN counts as the least typical score.
        log_weight: (N,), logarithms of the weights of the new inputs; NaN counts as plus infinity, for which p is 1.
        calibration: (n,) scores, in any order; finite.
        calibration_log_weights: (n,), below plus infinity; minus infinity for a score that does not count.
        uniform: (N,), independent draws from (0, 1], with which P(p <= a) = a exactly; see `smoothed_p_value`.

    Returns:
        (N,) in [0, 1], float64, or float32 on a device without float64; without gradient.

    Raises:
        ValueError: shapes; calibration scores or weights that are NaN or plus infinity.

    Examples:
        >>> calibration, log_weights = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]).log()
        >>> weighted_p_value(torch.tensor([2.5]), torch.tensor([2.0]).log(), calibration, log_weights)
        tensor([0.5000], dtype=torch.float64)
    """
    ordered, log_weights = _ordered(calibration, calibration_log_weights)
    _check_log_weight(log_weight, score)
    total, largest = _cumulative_weights(log_weights), _largest_log_weight(log_weights)
    return _p_value(score, log_weight, ordered, total, largest, uniform)


def effective_sample_size(log_weights: Tensor) -> float:
    """(sum w)^2 / sum w^2 of weights (n,), from 1 to n, the value for equal weights; 0 if none counts."""
    weights = (log_weights.double() - _largest_log_weight(log_weights)).exp()
    squares = float(weights.square().sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _p_value(
    score: Tensor, log_weight: Tensor, ordered: Tensor, total: Tensor, largest: Tensor, uniform: Tensor | None
) -> Tensor:
    """`weighted_p_value` among ascending scores (n,), with `_cumulative_weights` (n + 1,) in the unit `largest` ()."""
    up_to = rank(score, ordered)
    if uniform is None:
        return _quotient(total, largest, up_to, log_weight)
    below = rank(score, ordered, right=False)
    scale, own = _in_common_unit(log_weight, largest)
    equal = (total[up_to] - total[below]) * scale + own
    return _share(total[below] * scale + uniform.to(own) * equal, total[-1] * scale + own)


def _ordered(calibration: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Calibration scores (n,) ascending with their log-weights; among equal scores the lighter first.

    This makes sums of weights independent of the order of the scores, to the last digit.
    """
    if calibration.dim() != 1 or calibration.shape != log_weights.shape:
        raise ValueError(
            f"calibration scores and log-weights: expected one of each per input, shape (n,); got "
            f"{tuple(calibration.shape)} and {tuple(log_weights.shape)}"
        )
    bad = int((~(log_weights < torch.inf)).sum()), int((~calibration.isfinite()).sum())
    if any(bad):
        raise ValueError(
            f"calibration scores and log-weights: expected finite scores and log-weights below infinity; got {bad[1]} "
            f"scores and {bad[0]} log-weights of {len(calibration)} that are not: look for such inputs"
        )
    calibration, log_weights = calibration.detach(), log_weights.detach().to(widest(log_weights.device))
    order = log_weights.argsort(stable=True)
    order = order[calibration[order].argsort(stable=True)]
    return calibration[order], log_weights[order]


def _given(log_weight: Tensor | None) -> Tensor:
    if log_weight is None:
        raise ValueError("log-weights: expected one per score; got none: give those of `log_weights`")
    return log_weight


def _check_log_weight(log_weight: Tensor, score: Tensor) -> None:
    if score.dim() != 1 or log_weight.shape != score.shape or not log_weight.is_floating_point():
        raise ValueError(
            f"scores and log-weights: expected one number of each per input, shape (N,); got {tuple(score.shape)} and "
            f"{tuple(log_weight.shape)} of {log_weight.dtype}"
        )


def _largest_log_weight(log_weights: Tensor) -> Tensor:
    """(), the unit of sums: the largest of log-weights (n,); 0 if none counts."""
    largest = log_weights.amax() if len(log_weights) else log_weights.new_tensor(-torch.inf)
    return torch.where(largest.isinf(), torch.zeros_like(largest), largest)


def _cumulative_weights(log_weights: Tensor) -> Tensor:
    """(n + 1,), sums of the first 0 to n weights, in units of the largest; exact if all are equal."""
    weights = (log_weights - _largest_log_weight(log_weights)).exp()
    return torch.cat([weights.new_zeros(1), weights.cumsum(0)])


def _quotient(total: Tensor, largest: Tensor, up_to: Tensor, log_weight: Tensor) -> Tensor:
    """(total[up_to] + w) / (total[n] + w), (N,); never above 1, never decreasing in `up_to` (N,)."""
    scale, own = _in_common_unit(log_weight, largest)
    return _share(total[up_to] * scale + own, total[-1] * scale + own)


def _threshold_index(total: Tensor, largest: Tensor, log_weight: Tensor, alpha: float) -> Tensor:
    """(N,) int64, number k of calibration scores up to the threshold; 0 if everything is accepted.

    The bisection uses the p-values themselves, so the threshold never disagrees with them.
    """
    low, high = torch.zeros_like(log_weight, dtype=torch.long), torch.full_like(log_weight, len(total) - 1).long()
    for _ in range(len(total).bit_length()):
        middle = (low + high) // 2
        short = refused(_quotient(total, largest, middle, log_weight), alpha)
        low, high = torch.where(short & (low < high), middle + 1, low), torch.where(short, high, middle)
    return high


def _in_common_unit(log_weight: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Factor that brings sums to the larger unit of both, (N,) <= 1, and the new weights in that unit, (N,) <= 1."""
    log_weight = torch.nan_to_num(log_weight.detach().to(largest), nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    unit = torch.maximum(log_weight, largest)
    infinite = unit == torch.inf
    scale = torch.where(infinite, torch.zeros_like(unit), (largest - unit).exp())
    return scale, torch.where(infinite, torch.ones_like(unit), (log_weight - unit).exp())


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole; 1 if neither the new input nor any calibration input counts."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 1.0)
