"""Histogram of the calibration scores."""

import torch
from torch import Tensor

from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detector import FailureDetector
from trainers.serve.answers import CalibrationAnswer

N_BINS = 40
# Quantiles; outer bins gather what is further than two widths of the bulk, lest it squeeze the others.
BULK = (0.05, 0.95)


def histogram(detector: FailureDetector, prediction: int) -> CalibrationAnswer:
    """The calibration scores among which an image of that predicted class is ranked."""
    scores, threshold = _compared(detector, prediction)
    left, right = torch.quantile(scores, torch.tensor(BULK, dtype=scores.dtype))
    low = float(torch.minimum(torch.maximum(scores.min(), left - 2 * (right - left)), threshold))
    high = float(torch.minimum(scores.max(), right + 2 * (right - left)))
    edges = torch.linspace(low, high if high > low else low + 1, N_BINS + 1, dtype=scores.dtype)
    place = torch.bucketize(scores, edges[1:-1], right=True)
    return CalibrationAnswer(
        n=len(scores),
        alpha=detector.alpha,
        threshold=float(threshold),
        lowest=float(scores.min()),
        highest=float(scores.max()),
        edges=edges.tolist(),
        counts=torch.bincount(place, minlength=N_BINS).tolist(),
        weighted=detector.calibration.needs_adapt,
        counted=detector.calibration.grid is not None or isinstance(detector.calibration, MondrianCalibration),
    )


def _compared(detector: FailureDetector, prediction: int) -> tuple[Tensor, Tensor]:
    """The scores, and the threshold (); on the CPU, float64."""
    calibration = detector.calibration
    scores, threshold = calibration.scores, calibration.threshold(detector.alpha)
    if isinstance(calibration, MondrianCalibration):
        scores = scores[calibration.members[prediction][calibration.classes]]
        threshold = threshold[prediction]
    return scores.double().cpu(), threshold.double().cpu()
