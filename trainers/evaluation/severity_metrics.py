"""What metrics.json says about images corrupted in one severity."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainers.evaluation.detection_metrics import detection_metrics


def severity_metrics(
    severity: int, scores: Tensor, wrong: Tensor, accept: Tensor, baselines: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Does the detector see the errors that a corruption makes, and how much is left to predict?

    Args:
        severity: from 1 to 5; 0 for the same images without the corruption.
        scores: (N,), N >= 1.
        wrong: (N,) bool, true where the prediction is wrong.
        accept: (N,) bool.
        baselines: name -> (N,) scores of the same images.

    Returns:
        severity, n; error_rate; coverage, the share accepted; risk, the error rate among the accepted, None where there
        are none; refusal_rate, the share of the errors that are refused, None where there are none; auroc of the errors
        against the rest, and baselines: name -> auroc, None where all or none are errors.
    """
    both = bool(wrong.any()) and not bool(wrong.all())
    return {
        "severity": severity,
        "n": len(scores),
        "error_rate": _share(wrong),
        "coverage": _share(accept),
        "risk": _share(wrong[accept]),
        "refusal_rate": _share(~accept[wrong]),
        "auroc": _auroc(scores, wrong) if both else None,
        "baselines": {name: {"auroc": _auroc(other, wrong) if both else None} for name, other in baselines.items()},
    }


def _share(found: Tensor) -> float | None:
    return float(found.double().mean()) if len(found) else None


def _auroc(scores: Tensor, wrong: Tensor) -> float:
    return detection_metrics(scores[~wrong], scores[wrong])["auroc"]
