"""Moving components without points to where points are explained worst."""

import math

import torch
from torch import Tensor

from gmm_torch.devices import is_host
from gmm_torch.mixture.covariance import CovarianceFamily, Factors
from gmm_torch.mixture.densities import log_normal
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.statistics import Statistics

# A component with less than this share of a point, in summed responsibilities, is without points.
EMPTY_COUNT = 1e-6


def reseed(
    family: CovarianceFamily,
    current: Parameters,
    updated: Parameters,
    total: Statistics,
    fresh: Factors,
    penalty: Tensor,
) -> tuple[Parameters, Tensor]:
    """Move one component without points to the worst explained point, where that is sure to help.

    A component of weight e there, e the point's share of the data's weight, changes the mean log-likelihood by at
    least log(1 - e), on all points, plus e log(1 + e N(x; x) / p(x)) at its own; a mixture for which the sum is
    positive keeps its other parameters for this iteration, so the likelihood cannot fall.

    Args:
        current: of R mixtures of K >= 2 components, under which `total` was summed.
        updated: what the M-step made of them.
        total: of all points of all processes.
        fresh: see `CovarianceFamily.fresh`.
        penalty: (D,), the `reg_covar` that the E-step allows for.

    Returns:
        the parameters to go on with, and for which mixtures (R,) bool they have a moved component.
    """
    n_features = current.means.shape[-1]
    share = total.moments["moments"][..., 0] / total.total_weight  # (R, K)
    lightest = share.argmin(-1, keepdim=True)
    chosen = torch.zeros_like(share, dtype=torch.bool).scatter_(-1, lightest, True)
    # Of a point no heavier than the one that is gained: what is lost must be little beside that.
    is_empty = share.gather(-1, lightest)[:, 0] * total.total_weight < EMPTY_COUNT * total.worst_weight.clamp_max(1)
    if is_host(share.device) and not bool(is_empty.any()):  # to look would cost an accelerator more than to go on
        return updated, is_empty
    factors = family.replace(current.factors, chosen, fresh)
    log_epsilon = (total.worst_weight / total.total_weight).log()[:, None]  # (R, 1)
    means = torch.where(chosen[..., None], total.worst_point[:, None], current.means)
    others = current.log_weights.masked_fill(chosen, -torch.inf).logsumexp(-1, keepdim=True)
    rest = current.log_weights - others + torch.log1p(-log_epsilon.exp().clamp_max(0.5))
    log_weights = torch.where(chosen, log_epsilon, rest)
    precision = family.precision_diagonal(factors, n_features).expand(means.shape)
    expected = (precision * penalty).sum(-1)
    peak = log_normal(expected, family.log_det(factors, n_features).expand(share.shape), n_features)
    peak = peak.gather(-1, lightest)[:, 0]
    # log(1 + e N / p) > 1.5 > -log(1 - e) / e for every e <= 1 / 2.
    helps = (log_epsilon[:, 0] + peak - total.worst > 1.5) & (log_epsilon[:, 0] <= -math.log(2))
    moved = is_empty & helps
    return Parameters(log_weights, means, factors).where(moved, updated), moved
