"""The numbers of metrics.json: how well a score tells failures from good inputs, beside the baseline.

Scores are (N,) tensors, higher = more typical. A number that can't be had (no failures, no good inputs) is None with a
reason next to it, never NaN.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from gmm_torch.checks import check_p_values
from gmm_torch.conformal.mondrian import class_rates
from gmm_torch.conformal.p_values import refused
from gmm_torch.evaluation.hypothesis_tests import auroc_difference, compare, compare_within, holm, permutation
from gmm_torch.evaluation.metrics import augrc, aurc, excess_aurc, fpr_at_tpr, unit_ranks
from gmm_torch.evaluation.rates import cochran_armitage, error_rates, homogeneity, interval, rises
from trainers.records.record import Records
from trainers.report.tables.text import BASELINE

DETECTION = ("auroc", "aupr_in", "aupr_out", "fpr_at_95_tpr")
TESTS = ("mann_whitney_p", "ks_p")
ERROR_TESTS = ("permutation_p", "van_elteren_p", "trend_p", "rise_p")  # of the source `errors` alone
N_PERMUTATIONS = 999  # a second or two with ten thousand images
CONFIDENCE = 0.95  # of every interval
ALPHAS = (0.01, 0.05, 0.10)  # at which false alarms are counted
ALPHA = 0.05  # at which those of each class are


def detection_metrics(good: Tensor, failures: Tensor) -> dict[str, float]:
    """The keys of `DETECTION`: how well one threshold separates scores (N,) and (M,), N, M >= 1.

    `aupr_in` is the average precision with the good inputs as positives, `aupr_out` with the failures;
    `fpr_at_95_tpr` the share of failures accepted where 95 % of the good inputs are.
    """
    scores = torch.cat([good, failures])
    failure = torch.cat([torch.zeros_like(good), torch.ones_like(failures)]).long()
    rank = unit_ranks(scores)
    return {
        "auroc": float(BinaryAUROC()(rank, 1 - failure)),
        "aupr_in": float(BinaryAveragePrecision()(rank, 1 - failure)),
        "aupr_out": float(BinaryAveragePrecision()(1 - rank, failure)),
        "fpr_at_95_tpr": float(fpr_at_tpr(good, failures)),
    }


def share(found: Tensor) -> float | None:
    """Of (N,) bool, those that are true; None where N = 0."""
    return float(found.double().mean()) if len(found) else None


def auroc(good: Tensor, failures: Tensor) -> float | None:
    """Of scores (N,) and (M,); None where there is nothing to compare."""
    return detection_metrics(good, failures)["auroc"] if len(good) and len(failures) else None


def auroc_metrics(good: Records, failures: Records) -> dict[str, Any]:
    """How well the score tells failures from good inputs, and how well the softmax does: auroc, and baselines."""
    softmax = auroc(good.max_softmax, failures.max_softmax)
    return {"auroc": auroc(good.score, failures.score), "baselines": {BASELINE: {"auroc": softmax}}}


def source_metrics(good: Records, failures: Records) -> dict[str, Any]:
    """What metrics.json says about N inputs to accept and M to refuse, but for the correction over the table.

    Returns:
        n (= M), n_good, refused (share of the failures), the keys of `DETECTION` and `TESTS`, effect_size (probability
        of superiority, interval, confidence), auroc_difference (ours minus that of the softmax: difference, interval,
        confidence), baselines (name -> the keys of `DETECTION`); with N = 0 or M = 0 all of them None and a `reason`.

    Raises:
        ValueError: a score is NaN.
    """
    counts = {"n": len(failures), "n_good": len(good)}
    if not (len(good) and len(failures)):
        missing = "failures of this kind" if len(good) else "good inputs to compare with"
        return {
            **counts,
            "reason": f"there are no {missing}",
            **dict.fromkeys(("refused", *DETECTION, *TESTS, "effect_size", "auroc_difference")),
            "baselines": {BASELINE: dict.fromkeys(DETECTION)},
        }
    tests = compare(good.score, failures.score, CONFIDENCE)
    effect = {"superiority": tests.superiority, "interval": tests.interval, "confidence": tests.confidence}
    difference = auroc_difference((good.score, good.max_softmax), (failures.score, failures.max_softmax), CONFIDENCE)
    return {
        **counts,
        "refused": share(~failures.accept),
        **detection_metrics(good.score, failures.score),
        "mann_whitney_p": tests.mann_whitney_p,
        "ks_p": tests.ks_p,
        "effect_size": effect,
        "auroc_difference": difference._asdict(),
        "baselines": {BASELINE: detection_metrics(good.max_softmax, failures.max_softmax)},
    }


def risk_coverage_metrics(scores: Tensor, wrong: Tensor) -> dict[str, float]:
    """The areas aurc, augrc and excess_aurc, of refusing inputs from the lowest of scores (N,) up, N >= 1."""
    return {area.__name__: float(area(scores, wrong)) for area in (aurc, augrc, excess_aurc)}


def error_metrics(clean: Records) -> dict[str, Any]:
    """The source `errors`, of all N >= 1 test images: wrong predictions against right ones.

    Returns:
        the keys of `source_metrics` and `risk_coverage_metrics`; permutation_p; within_class, see
        `within_class_metrics`; error_rate, see `error_rate_metrics`.
    """
    wrong = clean.wrong
    good, failures = clean.rows(~wrong), clean.rows(wrong)
    found = source_metrics(good, failures)
    found["baselines"][BASELINE] |= risk_coverage_metrics(clean.max_softmax, wrong)
    both = len(good) > 0 and len(failures) > 0
    return {
        **found,
        **risk_coverage_metrics(clean.score, wrong),
        "permutation_p": permutation(good.score, failures.score, N_PERMUTATIONS) if both else None,
        "within_class": within_class_metrics(clean.score, wrong, clean.prediction),
        "error_rate": error_rate_metrics(clean.p_value, wrong),
    }


def within_class_metrics(scores: Tensor, wrong: Tensor, prediction: Tensor) -> dict[str, Any]:
    """Are wrong predictions less typical than right ones of the same predicted class? See `compare_within`.

    All three are (N,); `prediction` holds the predicted classes.

    Returns:
        van_elteren_p, permutation_p, superiority (the AUROC within classes), interval, confidence, n_failures, n_good;
        classes: one entry a class with both wrong and right predictions (name, n_failures, n_good, superiority,
        interval, mann_whitney_p, and mann_whitney_p_holm, corrected over the classes). Where there is no such class
        the numbers are None and a `reason` says so.
    """
    if not set(prediction[wrong].tolist()) & set(prediction[~wrong].tolist()):
        return {
            "reason": "no predicted class has both wrong and right predictions",
            **dict.fromkeys(("van_elteren_p", "permutation_p", "superiority", "interval")),
            "confidence": CONFIDENCE,
            "n_failures": 0,
            "n_good": 0,
            "classes": [],
        }
    found = asdict(compare_within(scores, wrong, prediction, CONFIDENCE, N_PERMUTATIONS))
    classes = found.pop("strata")
    return {**found, "classes": classes}


def error_rate_metrics(p_values: Tensor, wrong: Tensor) -> dict[str, Any]:
    """The error rate by p-value, (N,) each, N >= 1, and whether it falls as the p-value rises.

    Returns:
        bins: low, high, n, n_errors, rate (None where n = 0), interval, of the images with low < p <= high;
        trend_p: a small one shows that the rate falls over the bins (Cochran-Armitage); rise_p: a small one shows that
        it rises between two neighbours all the same. Both None, with a `reason`, where all images are in one bin.
    """
    bins = error_rates(p_values, wrong, confidence=CONFIDENCE)
    found: dict[str, Any] = {"confidence": CONFIDENCE, "bins": [asdict(each) for each in bins]}
    if sum(each.n > 0 for each in bins) < 2:
        return {**found, "reason": "all p-values are in one bin", "trend_p": None, "rise_p": None}
    return {**found, "trend_p": cochran_armitage(bins), "rise_p": rises(bins)}


def false_alarm_rates(p_values: Tensor) -> dict[str, dict[str, Any]]:
    """The share of N clean test images with p <= alpha, with the exact interval of Clopper and Pearson (1934).

    The interval is for the false alarm rate of this detector, calibration set included; over calibration
    sets of n images that rate itself varies around alpha by about sqrt(alpha (1 - alpha) / n).

    Returns:
        false_alarm_rate: {"0.01": rate, ...}; false_alarm_interval: {"0.01": (low, high), ...}.
    """
    check_p_values(p_values)
    n, alarms = len(p_values), {f"{alpha:g}": int(refused(p_values, alpha).sum()) for alpha in ALPHAS}
    return {
        "false_alarm_rate": {alpha: k / n for alpha, k in alarms.items()},
        "false_alarm_interval": {alpha: interval(k, n, CONFIDENCE) for alpha, k in alarms.items()},
    }


def class_false_alarms(p_values: Tensor, prediction: Tensor) -> dict[str, Any]:
    """Whether some predicted class bears more than its share of the false alarms: clean test images with p <= alpha.

    Both are (N,), of clean test images, N >= 1; `prediction` holds the predicted classes.

    Returns:
        alpha, confidence; classes: name, n, n_refused, rate, interval; homogeneity_p: a small one shows that the rates
        differ, and `MondrianCalibration` would make them equal.
    """
    rates = class_rates(refused(p_values, ALPHA), prediction)
    return {
        "alpha": ALPHA,
        "confidence": CONFIDENCE,
        "classes": [each._asdict() for each in rates],
        "homogeneity_p": homogeneity([each.n for each in rates], [each.n_refused for each in rates]),
    }


def holm_correct(sources: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sources with `<test>_holm` beside each test, corrected over all tests of the table together.

    Tests that could not be made (None) stay None and don't count. Those of single classes are corrected among
    themselves, see `within_class_metrics`.
    """
    corrected = deepcopy(dict(sources))
    made = []
    for source in corrected.values():
        for part in (source, source.get("within_class", {}), source.get("error_rate", {})):
            for test in (*TESTS, *ERROR_TESTS):
                if test in part:
                    part[f"{test}_holm"] = None
                    if part[test] is not None:
                        made.append((part, test))
    for (part, test), value in zip(made, holm([part[test] for part, test in made]), strict=True):
        part[f"{test}_holm"] = value
    return corrected
