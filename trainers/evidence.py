"""The numbers of metrics.json: how well a score tells failures from good inputs, beside the baselines.

Scores are (N,) tensors, higher = more typical, of the same images in the same order for ours and every
baseline. A number that can't be had (no failures, no good inputs) is None with a reason next to it, never
NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from scipy import stats
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from gmm_torch.detection.hypothesis_tests import compare, holm
from gmm_torch.functional.risk_coverage import excess_aurc
from trainers.metrics import AUGRC, AURC, FPRAtTPR

DETECTION = ("auroc", "aupr_in", "aupr_out", "fpr_at_95_tpr")
TESTS = ("mann_whitney_p", "ks_p")
SELECTION = ("aurc", "augrc", "excess_aurc")


def unit_ranks(scores: Tensor) -> Tensor:
    """The scores' dense ranks, scaled to [0, 1] in float64: ties stay ties, infinities become numbers.

    torchmetrics pushes values outside [0, 1] through a sigmoid, which turns every log-likelihood below
    about -100 into the same 0. Its ranking metrics only need the order, which this keeps.
    """
    distinct, rank = scores.unique(return_inverse=True)
    return rank.double() / max(1, len(distinct) - 1)


def detection_metrics(good: Tensor, failures: Tensor) -> dict[str, float]:
    """The keys of `DETECTION`: how well one threshold on the score separates the two samples.

    `aupr_in` is the average precision with the good inputs as positives, `aupr_out` with the failures;
    `fpr_at_95_tpr` the share of failures accepted where 95 % of the good inputs are.

    Args:
        good: (N,) scores, N >= 1.
        failures: (M,) scores, M >= 1.
    """
    scores = torch.cat([good, failures])
    failure = torch.cat([torch.zeros_like(good), torch.ones_like(failures)]).long()
    rank = unit_ranks(scores)
    return {
        "auroc": float(BinaryAUROC()(rank, 1 - failure)),
        "aupr_in": float(BinaryAveragePrecision()(rank, 1 - failure)),
        "aupr_out": float(BinaryAveragePrecision()(1 - rank, failure)),
        "fpr_at_95_tpr": float(FPRAtTPR(0.95)(scores, failure)),
    }


def source_evidence(
    good: Tensor, failures: Tensor, baselines: Mapping[str, tuple[Tensor, Tensor]], confidence: float = 0.95
) -> dict[str, Any]:
    """Everything metrics.json says about one source of failure, but for the correction over the table.

    Args:
        good: (N,) scores of the inputs to accept.
        failures: (M,) scores of the inputs to refuse.
        baselines: name -> scores by another method of (the same N inputs, the same M inputs).
        confidence: of the interval of the effect size.

    Returns:
        n (= M), n_good, the keys of `DETECTION` and `TESTS`, effect_size (probability of superiority,
        interval, confidence), baselines (name -> the keys of `DETECTION`); with N = 0 or M = 0 all of them
        None and a `reason`.

    Raises:
        ValueError: if a baseline scores another number of inputs, or a score is NaN.
    """
    for name, (base_good, base_failures) in baselines.items():
        if base_good.shape != good.shape or base_failures.shape != failures.shape:
            raise ValueError(
                f"baseline {name!r} must score the same inputs: expected {tuple(good.shape)} good and "
                f"{tuple(failures.shape)} failures, got {tuple(base_good.shape)} and "
                f"{tuple(base_failures.shape)}. Score both sets with it before comparing."
            )
    counts = {"n": len(failures), "n_good": len(good)}
    if not (len(good) and len(failures)):
        nothing = dict.fromkeys(DETECTION)
        missing = "failures of this kind" if len(good) else "good inputs to compare with"
        return {
            **counts,
            "reason": f"there are no {missing}",
            **nothing,
            **dict.fromkeys(TESTS),
            "effect_size": None,
            "baselines": {name: dict(nothing) for name in baselines},
        }
    tests = compare(good, failures, confidence)
    return {
        **counts,
        **detection_metrics(good, failures),
        "mann_whitney_p": tests.mann_whitney_p,
        "ks_p": tests.ks_p,
        "effect_size": {
            "superiority": tests.superiority,
            "interval": list(tests.interval),
            "confidence": tests.confidence,
        },
        "baselines": {name: detection_metrics(*pair) for name, pair in baselines.items()},
    }


def risk_coverage_evidence(
    scores: Tensor, wrong: Tensor, baselines: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """AURC, AUGRC and excess AURC of refusing test images from the lowest score up, ours and the baselines'.

    Args:
        scores: (N,), N >= 1.
        wrong: (N,) bool, True where the prediction is wrong.
        baselines: name -> (N,) scores of the same images.
    """
    return {
        **_selection(scores, wrong),
        "baselines": {name: _selection(other, wrong) for name, other in (baselines or {}).items()},
    }


def error_evidence(scores: Tensor, wrong: Tensor, baselines: Mapping[str, Tensor]) -> dict[str, Any]:
    """The source `errors`: `source_evidence` of wrong against right, and `risk_coverage_evidence`.

    Args:
        scores: (N,) of all test images.
        wrong: (N,) bool, True where the prediction is wrong.
        baselines: name -> (N,) scores of the same images.
    """
    wrong = wrong.bool()
    evidence = source_evidence(
        scores[~wrong], scores[wrong], {name: (s[~wrong], s[wrong]) for name, s in baselines.items()}
    )
    selection = risk_coverage_evidence(scores, wrong, baselines)
    for name, values in selection.pop("baselines").items():
        evidence["baselines"][name].update(values)
    return {**evidence, **selection}


def false_alarm_rates(
    p_values: Tensor, alphas: Sequence[float] = (0.01, 0.05, 0.10), confidence: float = 0.95
) -> dict[str, dict[str, Any]]:
    """The share of clean test images with p <= alpha, with the exact interval of Clopper and Pearson (1934).

    The interval is for the false alarm rate of this detector, calibration set included; over calibration
    sets of n images that rate itself varies around alpha by about sqrt(alpha (1 - alpha) / n).

    Args:
        p_values: (N,) of clean test images, N >= 1.
        alphas: false alarm rates asked for.
        confidence: of the interval.

    Returns:
        false_alarm_rate: {"0.01": rate, ...}; false_alarm_interval: {"0.01": [low, high], ...}.

    Raises:
        ValueError: if there are no p-values or one is outside [0, 1].
    """
    if p_values.ndim != 1 or len(p_values) == 0 or not bool(((p_values >= 0) & (p_values <= 1)).all()):
        raise ValueError(
            f"p_values must be (N,), N >= 1, in [0, 1]; got {tuple(p_values.shape)}. "
            "Pass those of the clean test images."
        )
    rates: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for alpha in alphas:
        alarms = int((p_values <= alpha).sum())
        interval = stats.binomtest(alarms, len(p_values)).proportion_ci(confidence, method="exact")
        rates[f"{alpha:g}"] = alarms / len(p_values)
        intervals[f"{alpha:g}"] = [float(interval.low), float(interval.high)]
    return {"false_alarm_rate": rates, "false_alarm_interval": intervals}


def holm_correct(sources: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sources with `mann_whitney_p_holm` and `ks_p_holm`, corrected over all tests of the table together.

    Tests that could not be made (None) stay None and don't count.
    """
    made = [(name, test) for name in sources for test in TESTS if sources[name][test] is not None]
    adjusted = dict(zip(made, holm([sources[name][test] for name, test in made]), strict=True))
    return {
        name: {**source, **{f"{test}_holm": adjusted.get((name, test)) for test in TESTS}}
        for name, source in sources.items()
    }


def _selection(scores: Tensor, wrong: Tensor) -> dict[str, float]:
    areas: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (AURC(), AUGRC(), excess_aurc)
    return {name: float(area(scores, wrong)) for name, area in zip(SELECTION, areas, strict=True)}
