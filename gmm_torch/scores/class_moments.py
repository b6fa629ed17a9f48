"""Means and the common covariance of classes."""

from typing import NamedTuple

import torch
from torch import Tensor


class ClassMoments(NamedTuple):
    """Moments of C classes; float64."""

    means: Tensor  # (C, D); the mean of all points for a class without any
    within: Tensor  # (D, D), the regularised covariance of points about the mean of their class, positive definite


def class_moments(points: Tensor, classes: Tensor, n_classes: int, reg_covar: float) -> ClassMoments:
    """Maximum-likelihood moments of normal classes with a common covariance.

    Args:
        points: (N, D), N >= 1.
        classes: (N,) int64 in [0, n_classes).
        n_classes: C.
        reg_covar: > 0, fraction of each feature's total variance, plus a thousandth of the mean variance, that is added
            to its variance; so a feature may be constant.
    """
    wide = points.double()
    centre = wide.mean(0)
    centred = wide - centre
    sums = torch.zeros(n_classes, points.shape[1], dtype=wide.dtype, device=wide.device).index_add_(0, classes, centred)
    counts = torch.bincount(classes, minlength=n_classes)
    means = sums / counts.clamp_min(1)[:, None]
    deviation = centred - means[classes]
    variance = centred.square().mean(0)
    floor = (1e-3 * variance.mean()).clamp_min(torch.finfo(points.dtype).tiny ** 0.5)
    within = deviation.mT @ deviation / len(wide) + torch.diag_embed(reg_covar * (variance + floor))
    return ClassMoments(means + centre, within)
