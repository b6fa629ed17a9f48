"""EM with missing features: NaN stands for a value that was not observed.

Missing values are integrated out, not filled in: the E-step uses the mean and the covariance of the missing features
given the observed ones (Ghahramani and Jordan, "Supervised learning from incomplete data via an EM approach", 1994,
section 3). This is right for values missing at random.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.devices import full_precision
from gmm_torch.distributed import all_reduce_sum, gather, gather_objects
from gmm_torch.mixture.covariance import CovarianceFamily
from gmm_torch.mixture.e_step import EStep
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.linear_algebra import log_det_of_factor, log_normal, robust_cholesky
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.statistics import Statistics, moments_of

__all__ = ["ConditionalNormal", "fit_observed", "impute", "log_prob"]

# Numbers, over all components, that are processed at once for the points of one pattern.
_CHUNK_NUMBERS = 2**22
_TINY = torch.finfo(torch.float64).tiny


class ConditionalNormal:
    """K normals of some features given the others (Bishop 2006, equations 2.81 and 2.82).

    Means are (K, D), covariances (K, D, D); `known` (o,) and `unknown` (m,) int64 are features. The attribute
    `covariances` (K, m, m) does not depend on the values of the known features.
    """

    def __init__(self, means: Tensor, covariances: Tensor, known: Tensor, unknown: Tensor) -> None:
        self.known_means, self.unknown_means = means[:, None, known], means[:, None, unknown]
        self.lower, _ = robust_cholesky(covariances[:, known[:, None], known])
        cross = covariances[:, known[:, None], unknown]
        self.white_cross = torch.linalg.solve_triangular(self.lower, cross, upper=False)  # (K, o, m)
        explained = self.white_cross.mT @ self.white_cross
        self.covariances = covariances[:, unknown[:, None], unknown] - explained

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities (K, n) of known features (n, o), and the means (K, n, m) of the unknown ones given them."""
        deviation = (values - self.known_means).mT  # (K, o, n)
        white = torch.linalg.solve_triangular(self.lower, deviation, upper=False)
        log_det = log_det_of_factor(self.lower)[:, None]
        density = log_normal(white.square().sum(1), log_det, values.shape[1])
        return density, self.unknown_means + white.mT @ self.white_cross


class _Completed(NamedTuple):
    """Points with the same features missing, under one mixture."""

    rows: Tensor  # (n,) int64, positions of the points
    log_joint: Tensor  # (n, K), log w_k N(observed part | k)
    expected: Tensor  # (n, K, D), the points with missing values at their expectation
    spread: Tensor  # (K, D, D), covariance of missing features given observed ones; zero elsewhere


def _completed(log_weights: Tensor, means: Tensor, covariances: Tensor, z: Tensor) -> Iterator[_Completed]:
    """Yield all points z (N, D) under K normals, one pattern of missing features at a time."""
    k, d = means.shape
    if not len(z):
        return
    patterns, inverse = (~torch.isnan(z)).unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        known, unknown = pattern.nonzero()[:, 0], (~pattern).nonzero()[:, 0]
        conditional = ConditionalNormal(means, covariances, known, unknown)
        spread = torch.zeros_like(covariances)
        spread[:, unknown[:, None], unknown] = conditional.covariances
        for rows in (inverse == number).nonzero()[:, 0].split(max(1, _CHUNK_NUMBERS // (k * d))):
            density, unknown_means = conditional(z[rows][:, known])
            expected = z[rows].expand(k, -1, -1).clone()
            expected[..., unknown] = unknown_means
            yield _Completed(rows, (log_weights[:, None] + density).mT, expected.transpose(0, 1), spread)


class _ObservedEStep(EStep):
    """Expected statistics of points (n, D) with NaN for missing values, under one mixture (R = 1), in float64.

    The objective is the log-likelihood of the observed values. A matrix is factorised for every component and pattern
    of missing features, so this is slow if nearly every point has a different pattern.
    """

    def __call__(self, x: Tensor, weight: Tensor | None = None) -> Statistics:
        """See `EStep`."""
        z = (x.double() - self.standardisation.location) / self.standardisation.scale
        weight = z.new_ones(len(z)) if weight is None else weight.double()
        parameters = self.parameters.map(lambda value: value[0])
        means, (k, d) = parameters.means, parameters.means.shape
        dense = self.family.dense(parameters.factors, k, d)
        counts, linear, scatter = z.new_zeros(k), z.new_zeros(k, d), z.new_zeros(k, d, d)  # about the old means
        # Only observed values change units.
        log_likelihood = weight @ (torch.isnan(z).double() @ self.standardisation.scale.log())
        for part in _completed(parameters.log_weights, means, dense, z):
            objective = part.log_joint.logsumexp(-1, keepdim=True)
            share = (part.log_joint - objective).exp() * weight[part.rows, None]  # (n, K)
            deviation = part.expected - means  # (n, K, D)
            weighted = share[..., None] * deviation
            counts += share.sum(0)
            linear += weighted.sum(0)
            scatter += torch.einsum("nki,nkj->kij", weighted, deviation) + share.sum(0)[:, None, None] * part.spread
            log_likelihood = log_likelihood + objective[:, 0] @ weight[part.rows]
        safe = counts.clamp_min(_TINY)[:, None]
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
    """Run a new `em` on points x (N, D) with NaN for missing values, and weights (N,) >= 0 or None.

    It starts from a short fit to the points with missing values at their feature's mean. `reg_covar` is a fraction of
    the observed variance, and not part of the objective.

    Raises:
        ValueError: infinity or numbers out of range, a feature or a point without any value, fewer points than
            components.
    """
    seen, infinite = ~torch.isnan(x), torch.isinf(x)
    n_seen, n_infinite = all_reduce_sum([seen.sum(0).double(), infinite.sum().double()])
    if int(n_infinite):
        raise ValueError("x: expected finite numbers, or NaN where missing; got infinity")
    empty_points, n_before = [], 0  # numbered over the points of all processes
    for n, empty in gather_objects((len(x), (~seen.any(1)).nonzero()[:, 0].tolist())):
        empty_points += [n_before + position for position in empty]
        n_before += n
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
        mean = summed / total.clamp_min(_TINY) * size
        options = em.options
        rough = dataclasses.replace(
            options, max_iter=min(5, options.max_iter), reg_covar=max(options.reg_covar, 1e-3), reg_mode="relative"
        )
        start = EM(em.family, em.n_components, em.n_features, rough, em.dtype, em.device, em.stored)
        start.run([(torch.where(seen, x, mean.to(x.dtype)), weight)])
        scale = start.standardisation.scale
        deviation = torch.where(seen, (x - mean) / scale, 0).square()
        variance = all_reduce_sum([w @ deviation])[0] / total.clamp_min(_TINY)
        varies = variance > 0
        typical = variance[varies].mean() if bool(varies.any()) else torch.ones_like(mean[0])
        em.dtype, em.step_type, em.standardisation = torch.float64, _ObservedEStep, start.standardisation
        em.reg_covar = em.regularisation(scale, torch.where(varies, variance, typical))
        em.n_points, em.mean_weight = start.n_points, start.mean_weight
        best = slice(start.best, start.best + 1)
        em.jitter = start.jitter[best]
        em.start(start.parameters.map(lambda value: value[best]))
    return em.run([(x, weight)], on_iteration=on_iteration)


@torch.no_grad()
def log_prob(family: CovarianceFamily, parameters: Parameters, location: Tensor, x: Tensor) -> Tensor:
    """Log-density of the observed features of each point x (N, D): (N,) float64, 0 if nothing was observed."""
    z, scale, dense = _scaled(family, parameters, location, x)
    result = z.new_zeros(len(z))
    for part in _completed(*dense, z):
        result[part.rows] = part.log_joint.logsumexp(-1)
    return result - (~torch.isnan(z)).double().sum(1) * scale.log()


@torch.no_grad()
def impute(family: CovarianceFamily, parameters: Parameters, location: Tensor, x: Tensor) -> Tensor:
    """x (N, D) with missing features at their expectation given the observed ones."""
    z, scale, dense = _scaled(family, parameters, location, x)
    result = x.clone()
    for part in _completed(*dense, z):
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
    # A power of two near a typical standard deviation: covariances in its units do not overflow.
    log_scale = family.log_det(parameters.factors, d).mean() / (2 * d)
    scale = torch.exp2((log_scale / math.log(2)).round())
    covariances = family.dense(family.rescale(parameters.factors, (1 / scale).expand(d)), k, d)
    return (x.double() - location) / scale, scale, (parameters.log_weights, parameters.means / scale, covariances)
