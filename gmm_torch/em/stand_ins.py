"""Weighted points that stand for a mixture: what the M-step makes of them is the mixture."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gmm_torch.covariance import CovarianceFamily
from gmm_torch.devices import rows_at_once
from gmm_torch.functional.linear_algebra import robust_cholesky
from gmm_torch.parameters import Parameters


def stand_ins(family: CovarianceFamily, parameters: Parameters) -> Iterator[tuple[Tensor, Tensor]]:
    """Points of some components at a time, and their weights for each component.

    Of a component with covariance L L' these are its mean plus and minus the root of D times each column of L: 2 D
    points with its mean and its covariance.

    Args:
        family: of the covariances.
        parameters: of one mixture, float64.

    Yields:
        points (n, D) and weights (K, n), float64: each point counts for its own component alone, all together one.
    """
    k, d = parameters.means.shape
    at_once = rows_at_once(parameters.means.device, 2 * d * d * parameters.means.itemsize)
    share = parameters.log_weights.softmax(-1) / (2 * d)
    covariances = family.dense(parameters.factors, k, d)
    for some in torch.arange(k, device=share.device).split(at_once):
        lower, _ = robust_cholesky(covariances[some])
        columns = d**0.5 * lower.mT
        points = parameters.means[some, None] + torch.cat([columns, -columns], dim=1)
        own = torch.nn.functional.one_hot(some, k).to(share) * share
        yield points.flatten(0, 1), own.mT.repeat_interleave(2 * d, dim=1)
