"""Weighted points that stand for components: what a family sums over them, or its M-step makes of them, is these."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gmm_torch.devices import rows_at_once
from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.linear_algebra import robust_cholesky
from gmm_torch.mixture.parameters import Parameters


def stand_ins(counts: Tensor, means: Tensor, covariances: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Points (n, D) of some of K components at a time, and weights (K, n): each counts for its own component alone.

    Of a component with covariance L L' these are its mean plus and minus the root of D times each column of L: 2 D
    points with its mean and its covariance. Their weights add up to its count.

    Args:
        counts: (K,) float64.
        means: (K, D) float64.
        covariances: (K, D, D) float64.
    """
    k, d = means.shape
    at_once = rows_at_once(means.device, 2 * d * d * means.itemsize)
    share = counts / (2 * d)
    for some in torch.arange(k, device=share.device).split(at_once):
        lower, _ = robust_cholesky(covariances[some])
        columns = d**0.5 * lower.mT
        points = means[some, None] + torch.cat([columns, -columns], dim=1)
        own = torch.nn.functional.one_hot(some, k).to(share) * share
        yield points.flatten(0, 1), own.mT.repeat_interleave(2 * d, dim=1)


def moments_of(
    family: CovarianceFamily, parameters: Parameters, counts: Tensor, means: Tensor, covariances: Tensor
) -> Factors:
    """What a family would sum over points whose components have these counts, means and covariances: `stand_ins`'."""
    prepared = family.prepare(parameters, torch.zeros_like(means[0]))
    parts = [
        family.moments(prepared, family.features(x.mT.contiguous()), weight)
        for x, weight in stand_ins(counts, means, covariances)
    ]
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
