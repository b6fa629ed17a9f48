"""Points with missing features: NaN stands for what was not observed.

What is missing is integrated out, never filled in before the fit: the E-step takes the expectation of the missing
features given the observed ones, mean and covariance both (Ghahramani and Jordan, "Supervised learning from incomplete
data via an EM approach", 1994, section 3). This is right where values are missing at random.
"""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.covariance import Factors
from gmm_torch.devices import full_precision, summing_device
from gmm_torch.em.batches import as_tensor, check_points
from gmm_torch.em.engine import EMOptions, warn_not_converged
from gmm_torch.em.parameters import Parameters
from gmm_torch.functional.densities import log_normal
from gmm_torch.functional.linear_algebra import robust_cholesky
from gmm_torch.mixture import GaussianMixture

# Points of one pattern that are looked at together, in numbers over all components.
CHUNK_NUMBERS = 2**22


class Dense(NamedTuple):
    """Log-weights (K,), means (K, D) and covariances (K, D, D) in float64."""

    log_weights: Tensor
    means: Tensor
    covariances: Tensor


class Filled(NamedTuple):
    """Some points of one pattern, under one mixture.

    Attributes:
        rows: (n,) int64, which points.
        log_joint: (n, K), log w_k N(observed part | k).
        expected: (n, K, D), the points with the expectation of what is missing.
        spread: (K, D, D), covariance of what is missing given what is observed; zero elsewhere.
    """

    rows: Tensor
    log_joint: Tensor
    expected: Tensor
    spread: Tensor


def fit(
    mixture: GaussianMixture,
    x: Tensor,
    *,
    max_iter: int = 100,
    tol: float = 1e-3,
    reg_covar: float = 1e-6,
    seed: int = 0,
) -> GaussianMixture:
    """Fit by EM to points of which features may be missing.

    Starts from a short fit to the points with missing features at their means. An iteration factorises one matrix for
    every component and every pattern of missing features, so it is slow where nearly every point has a pattern of its
    own.

    Args:
        mixture: fitted in place.
        x: (N, D), NaN where missing.
        max_iter, tol, seed: as in `GaussianMixture.fit`; tol is for the log-likelihood of what is observed.
        reg_covar: fraction of each feature's observed variance that is added to the diagonal of every covariance.

    Returns:
        the mixture.

    Raises:
        ValueError, TypeError: wrong shape or type, infinity or numbers out of range, a feature or a point without any
            value, an option out of range, fewer points than components.
    """
    options = EMOptions(max_iter=min(5, max_iter), tol=tol, reg_covar=max(reg_covar, 1e-3), seed=seed)
    with full_precision(mixture.location.device):
        return _fit(mixture, x, options, max_iter, reg_covar)


@torch.inference_mode(False)
@torch.no_grad()
def _fit(mixture: GaussianMixture, x: Tensor, options: EMOptions, max_iter: int, reg_covar: float) -> GaussianMixture:
    check_points(x, mixture.n_features)
    em = mixture.start_em(options)
    x = as_tensor(x).to(em.device)
    seen = _seen(x)
    for what, axis in (("feature", 0), ("point", 1)):
        empty = (~seen.any(axis)).nonzero()[:, 0]
        if len(empty):
            raise ValueError(
                f"x: expected a value in every {what}; got none in {len(empty)}, the first is {what} {int(empty[0])}: "
                "leave it out"
            )
    size = torch.where(seen, x, 0).abs().amax(0).double()
    size = torch.where(size > 0, size, torch.ones_like(size))  # a sum of numbers of that size may overflow
    mean = (x / size).nanmean(0) * size
    guess = torch.where(seen, x, mean.to(x.dtype))
    while not em.done:
        em.advance(em.collect([(guess, None)]))

    family, (location, scale, _) = mixture.family, vars(em.standardisation).values()
    z = (x - location) / scale
    variance = torch.where(seen, z - (mean - location) / scale, 0).square().sum(0) / seen.sum(0)
    varies = variance > 0
    added = max(reg_covar, 1e-10) * torch.where(varies, variance, variance[varies].mean() if varies.any() else 1.0)
    parameters = em.parameters.map(lambda value: value[em.best])
    jacobian = float((seen.double() @ scale.log()).mean())
    history: list[float] = []
    converged = False
    for _ in range(max_iter):
        log_likelihood, moments = _pass(mixture, parameters, z, seen)
        history.append(log_likelihood - jacobian)
        parameters, jitter = family.update(moments, added, parameters)
        if len(history) > 1 and abs(history[-1] - history[-2]) < options.tol:
            converged = True
            break
    mixture.assign(em.standardisation.undo(family, parameters), location)
    mixture.converged, mixture.n_iter, mixture.lower_bound = converged, len(history), history[-1]
    mixture.history, mixture.jitter = torch.tensor(history, dtype=torch.float64, device="cpu"), jitter.cpu()
    if not converged:
        warn_not_converged(
            len(history), history[-1] - history[-2] if len(history) > 1 else None, options.tol, stacklevel=3
        )
    return mixture


@torch.no_grad()
def log_prob(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Log-density of the observed features of each point: (N,) float64, 0 where nothing was observed."""
    check_points(x, mixture.n_features)
    x = as_tensor(x)
    with full_precision(mixture.location.device):
        z, seen, scale, dense = _prepared(mixture, x)
        result = z.new_zeros(len(z))
        for part in _fill(dense, z, seen):
            result[part.rows] = part.log_joint.logsumexp(-1)
        return (result - seen.double().sum(1) * scale.log()).to(x.device)


@torch.no_grad()
def impute(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """x with missing features at their expectation given the observed ones, (N, D)."""
    check_points(x, mixture.n_features)
    x = as_tensor(x)
    with full_precision(mixture.location.device):
        z, seen, scale, dense = _prepared(mixture, x)
        location = mixture.location.to(z.device)
        result = x.to(z.device, copy=True)
        for part in _fill(dense, z, seen):
            share = part.log_joint.softmax(-1)
            expected = (share[..., None] * part.expected).sum(1) * scale + location
            result[part.rows] = torch.where(seen[part.rows], result[part.rows], expected.to(x.dtype))
        return result.to(x.device)


def _seen(x: Tensor) -> Tensor:
    """(N, D) bool: not missing."""
    if bool(torch.isinf(x).any()):
        raise ValueError("x: expected finite numbers, or NaN where missing; got infinity")
    return ~torch.isnan(x)


def _prepared(mixture: GaussianMixture, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Dense]:
    """Points about the location in units of a scale (), where they were seen, the scale, the mixture in its units."""
    mixture.require_fitted()
    mixture = copy.deepcopy(mixture).to(summing_device(mixture.location.device))
    x, location = x.to(mixture.location.device), mixture.location
    raw = mixture.parameters_about_location(torch.float64).map(torch.Tensor.detach)
    # A power of two, the size of a typical standard deviation: covariances in its units do not overflow.
    log_scale = mixture.family.log_det(raw.factors, mixture.n_features).mean() / (2 * mixture.n_features)
    scale = torch.exp2((log_scale / math.log(2)).round())
    factors = mixture.family.rescale(raw.factors, (1 / scale).expand(mixture.n_features))
    scaled = Parameters(raw.log_weights, raw.means / scale, factors)
    return (x.double() - location) / scale, _seen(x), scale, _dense(mixture, scaled)


def _dense(mixture: GaussianMixture, parameters: Parameters) -> Dense:
    k, d = mixture.n_components, mixture.n_features
    return Dense(parameters.log_weights, parameters.means, mixture.family.dense(parameters.factors, k, d))


def _fill(dense: Dense, z: Tensor, seen: Tensor) -> Iterator[Filled]:
    """All points, pattern by pattern."""
    patterns, inverse = seen.unique(dim=0, return_inverse=True)
    k, d = dense.means.shape
    for number, pattern in enumerate(patterns):
        known, unknown = pattern.nonzero()[:, 0], (~pattern).nonzero()[:, 0]
        lower, _ = robust_cholesky(dense.covariances[:, known[:, None], known])  # (K, o, o)
        cross = dense.covariances[:, unknown[:, None], known]  # (K, m, o)
        half = torch.linalg.solve_triangular(lower, cross.mT, upper=False)  # (K, o, m)
        spread = torch.zeros_like(dense.covariances)
        inner = dense.covariances[:, unknown[:, None], unknown] - half.mT @ half
        spread[:, unknown[:, None], unknown] = inner
        log_det = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        for rows in (inverse == number).nonzero()[:, 0].split(max(1, CHUNK_NUMBERS // (k * d))):
            deviation = (z[rows][:, known] - dense.means[:, None, known]).mT  # (K, o, n)
            white = torch.linalg.solve_triangular(lower, deviation, upper=False)
            density = log_normal(white.square().sum(1), log_det[:, None], len(known))  # (K, n)
            expected = dense.means[:, None].expand(k, len(rows), d).clone()
            expected[..., known] = z[rows][:, known].expand(k, -1, -1)
            expected[..., unknown] += (half.mT @ white).mT
            yield Filled(rows, (dense.log_weights[:, None] + density).mT, expected.transpose(0, 1), spread)


def _pass(mixture: GaussianMixture, parameters: Parameters, z: Tensor, seen: Tensor) -> tuple[float, Factors]:
    """Mean log-likelihood of what is observed, and the expected statistics of all of it."""
    dense = _dense(mixture, parameters)
    k, d = dense.means.shape
    counts, linear = z.new_zeros(k), z.new_zeros(k, d)
    scatter = z.new_zeros(k, d, d)  # about the old means: nothing cancels
    total = z.new_zeros(())
    for part in _fill(dense, z, seen):
        evidence = part.log_joint.logsumexp(-1, keepdim=True)
        share = (part.log_joint - evidence).exp()  # (n, K)
        deviation = part.expected - dense.means  # (n, K, D)
        weighted = share[..., None] * deviation
        counts = counts + share.sum(0)
        linear = linear + weighted.sum(0)
        scatter = (
            scatter + torch.einsum("nki,nkj->kij", weighted, deviation) + share.sum(0)[:, None, None] * part.spread
        )
        total = total + evidence.sum()
    safe = counts.clamp_min(torch.finfo(counts.dtype).tiny)[:, None]
    shift = linear / safe
    covariance = scatter / safe[..., None] - shift[:, :, None] * shift[:, None]
    return float(total) / len(z), moments_of(mixture, parameters, counts, dense.means + shift, covariance)


def moments_of(
    mixture: GaussianMixture, parameters: Parameters, counts: Tensor, means: Tensor, covariances: Tensor
) -> Factors:
    """What the mixture's family would sum over points with these effective counts (K,), means (K, D) and covariances
    (K, D, D).

    Any family can be asked with 2 D points a component that have exactly these.
    """
    k, d = means.shape
    lower, _ = robust_cholesky(covariances)
    axes = math.sqrt(d) * lower.mT  # (K, D, D), row j is a deviation
    points = torch.cat([means[:, None] + axes, means[:, None] - axes], dim=1).flatten(0, 1)  # (2 K D, D)
    owner = torch.arange(k, device=means.device).repeat_interleave(2 * d)
    share = (torch.arange(k, device=means.device)[:, None] == owner) * (counts / (2 * d))[:, None]
    family = mixture.family
    prepared = family.prepare(parameters, torch.zeros_like(means[0]))
    return family.moments(prepared, family.features(points.mT.contiguous()), share)
