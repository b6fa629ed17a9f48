"""EM where features are missing: NaN stands for what was not observed.

What is missing is integrated out, never filled in before the fit: the E-step takes the expectation of the missing
features given the observed ones, mean and covariance both (Ghahramani and Jordan, "Supervised learning from incomplete
data via an EM approach", 1994, section 3). This is right where values are missing at random.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.devices import full_precision
from gmm_torch.distributed import all_reduce_sum, gather, gather_objects
from gmm_torch.mixture.conditional_normal import ConditionalNormal
from gmm_torch.mixture.covariance import CovarianceFamily
from gmm_torch.mixture.e_step import EStep
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.stand_ins import moments_of
from gmm_torch.mixture.statistics import Statistics

# Points of one pattern that are looked at together, in numbers over all components.
CHUNK_NUMBERS = 2**22


class Completed(NamedTuple):
    """Some points with the same features missing, under one mixture."""

    rows: Tensor  # (n,) int64, which points
    log_joint: Tensor  # (n, K), log w_k N(observed part | k)
    expected: Tensor  # (n, K, D), the points with the expectation of what is missing
    spread: Tensor  # (K, D, D), covariance of what is missing given what is observed; zero elsewhere


def completed(log_weights: Tensor, means: Tensor, covariances: Tensor, z: Tensor) -> Iterator[Completed]:
    """All points z (N, D), pattern of missing features by pattern, under K normals."""
    k, d = means.shape
    if not len(z):
        return
    patterns, inverse = (~torch.isnan(z)).unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        known, unknown = pattern.nonzero()[:, 0], (~pattern).nonzero()[:, 0]
        conditional = ConditionalNormal(means, covariances, known, unknown)
        spread = torch.zeros_like(covariances)
        spread[:, unknown[:, None], unknown] = conditional.covariances
        for rows in (inverse == number).nonzero()[:, 0].split(max(1, CHUNK_NUMBERS // (k * d))):
            density, unknown_means = conditional(z[rows][:, known])
            expected = z[rows].expand(k, -1, -1).clone()
            expected[..., unknown] = unknown_means
            yield Completed(rows, (log_weights[:, None] + density).mT, expected.transpose(0, 1), spread)


class ObservedEStep(EStep):
    """Expected statistics of points (n, D) with NaN for what is missing, under one mixture (R = 1), in float64.

    The objective is the log-likelihood of what is observed. One matrix is factorised for every component and every
    pattern of missing features, so this is slow where nearly every point has a pattern of its own.
    """

    def __call__(self, x: Tensor, weight: Tensor | None = None) -> Statistics:
        """See `EStep`."""
        z = (x.double() - self.standardisation.location) / self.standardisation.scale
        weight = z.new_ones(len(z)) if weight is None else weight.double()
        parameters = self.parameters.map(lambda value: value[0])
        means, (k, d) = parameters.means, parameters.means.shape
        dense = self.family.dense(parameters.factors, k, d)
        counts, linear, scatter = z.new_zeros(k), z.new_zeros(k, d), z.new_zeros(k, d, d)  # about the old means
        # The change of units concerns what is observed alone.
        log_likelihood = weight @ (torch.isnan(z).double() @ self.standardisation.scale.log())
        for part in completed(parameters.log_weights, means, dense, z):
            objective = part.log_joint.logsumexp(-1, keepdim=True)
            share = (part.log_joint - objective).exp() * weight[part.rows, None]  # (n, K)
            deviation = part.expected - means  # (n, K, D)
            weighted = share[..., None] * deviation
            counts += share.sum(0)
            linear += weighted.sum(0)
            scatter += torch.einsum("nki,nkj->kij", weighted, deviation) + share.sum(0)[:, None, None] * part.spread
            log_likelihood = log_likelihood + objective[:, 0] @ weight[part.rows]
        safe = counts.clamp_min(torch.finfo(counts.dtype).tiny)[:, None]
        shift = linear / safe
        covariance = scatter / safe[..., None] - shift[:, :, None] * shift[:, None]
        moments = moments_of(self.family, parameters, counts, means + shift, covariance)
        return dataclasses.replace(
            self.zero(),
            total_weight=weight.sum(),
            log_likelihood=log_likelihood[None],
            moments={name: value[None] for name, value in moments.items()},
        )


@torch.no_grad()
def fit_observed(em: EM, x: Tensor, weight: Tensor | None, on_iteration: Callable[[int, Tensor], None] | None) -> EM:
    """Run an `em` that has not begun on points with missing features.

    Starts from a short fit to the points with missing features at their means.

    Args:
        em: its options hold; `reg_covar` is a fraction of the observed variance, and no term of the objective.
        x: (N, D), NaN where missing.
        weight: (N,) >= 0, or None.
        on_iteration: see `EM.run`.

    Raises:
        ValueError: infinity or numbers out of range, a feature or a point without any value, fewer points than
            components.
    """
    seen, infinite = ~torch.isnan(x), torch.isinf(x)
    n_seen, n_infinite = all_reduce_sum([seen.sum(0).double(), infinite.sum().double()])
    if int(n_infinite):
        raise ValueError("x: expected finite numbers, or NaN where missing; got infinity")
    empty_points = numbered_over_processes(~seen.any(1))
    for what, empty in (("feature", (n_seen == 0).nonzero()[:, 0].tolist()), ("point", empty_points)):
        if empty:
            raise ValueError(
                f"x: expected a value in every {what}; got none in {len(empty)}, the first is {what} {empty[0]}: "
                "leave it out"
            )
    with full_precision(em.device):
        w = x.new_ones(len(x), dtype=torch.float64) if weight is None else weight.double()
        observed = torch.where(seen, x, 0).double()
        size = gather(observed.abs().amax(0) if len(x) else observed.new_zeros(x.shape[1])).amax(0)
        size = torch.where(size > 0, size, torch.ones_like(size))  # a sum of numbers of that size may overflow
        total, summed = all_reduce_sum([w @ seen.double(), w @ (observed / size)])
        mean = summed / total.clamp_min(torch.finfo(torch.float64).tiny) * size
        options = em.options
        rough = dataclasses.replace(
            options, max_iter=min(5, options.max_iter), reg_covar=max(options.reg_covar, 1e-3), reg_mode="relative"
        )
        start = EM(em.family, em.n_components, em.n_features, rough, em.dtype, em.device, em.stored)
        start.run([(torch.where(seen, x, mean.to(x.dtype)), weight)])
        scale = start.standardisation.scale
        deviation = torch.where(seen, (x - mean) / scale, 0).square()
        variance = all_reduce_sum([w @ deviation])[0] / total.clamp_min(torch.finfo(torch.float64).tiny)
        varies = variance > 0
        typical = variance[varies].mean() if bool(varies.any()) else torch.ones_like(mean[0])
        em.go_on_from(start, em.regularisation(scale, torch.where(varies, variance, typical)), ObservedEStep)
    return em.run([(x, weight)], on_iteration=on_iteration)


def numbered_over_processes(flag: Tensor) -> list[int]:
    """Positions of what is flagged, counted over the points (n,) of all processes in turn."""
    positions, start = [], 0
    for n, flagged in gather_objects((len(flag), flag.nonzero()[:, 0].tolist())):
        positions += [start + position for position in flagged]
        start += n
    return positions


@torch.no_grad()
def log_prob(family: CovarianceFamily, parameters: Parameters, location: Tensor, x: Tensor) -> Tensor:
    """Log-density of the observed features of each point x (N, D): (N,) float64, 0 where nothing was observed."""
    z, scale, dense = _scaled(family, parameters, location, x)
    result = z.new_zeros(len(z))
    for part in completed(*dense, z):
        result[part.rows] = part.log_joint.logsumexp(-1)
    return result - (~torch.isnan(z)).double().sum(1) * scale.log()


@torch.no_grad()
def impute(family: CovarianceFamily, parameters: Parameters, location: Tensor, x: Tensor) -> Tensor:
    """x (N, D) with missing features at their expectation given the observed ones."""
    z, scale, dense = _scaled(family, parameters, location, x)
    result = x.clone()
    for part in completed(*dense, z):
        expected = (part.log_joint.softmax(-1)[..., None] * part.expected).sum(1) * scale + location
        result[part.rows] = torch.where(torch.isnan(x[part.rows]), expected.to(x.dtype), x[part.rows])
    return result


def _scaled(
    family: CovarianceFamily, parameters: Parameters, location: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Points about the location in units of a scale (), the scale, and log-weights, means, covariances in its units."""
    if bool(torch.isinf(x).any()):
        raise ValueError("x: expected finite numbers, or NaN where missing; got infinity")
    k, d = parameters.means.shape
    # A power of two, the size of a typical standard deviation: covariances in its units do not overflow.
    log_scale = family.log_det(parameters.factors, d).mean() / (2 * d)
    scale = torch.exp2((log_scale / math.log(2)).round())
    covariances = family.dense(family.rescale(parameters.factors, (1 / scale).expand(d)), k, d)
    return (x.double() - location) / scale, scale, (parameters.log_weights, parameters.means / scale, covariances)
