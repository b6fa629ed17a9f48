"""Entropy and divergence of mixtures, which have no closed form: bounds, and estimates with their error."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_torch.functional.linear_algebra import robust_cholesky
from gmm_torch.mixture import GaussianMixture


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo estimate.

    Attributes:
        value: in nats.
        standard_error: of the value, in nats.
    """

    value: float
    standard_error: float


@torch.no_grad()
def kl(
    p: GaussianMixture, q: GaussianMixture, n_samples: int = 10_000, generator: torch.Generator | None = None
) -> Estimate:
    """Kullback-Leibler divergence KL(p || q) = E_p[log p(x) - log q(x)], by draws from p; unbiased.

    Args:
        p, q: over the same features.
        n_samples: at least 2; the error falls with its root.
        generator: of the draws, on p's device.

    Raises:
        ValueError: the mixtures differ in their number of features, or fewer than two samples.
    """
    if p.n_features != q.n_features:
        raise ValueError(f"q: expected {p.n_features} features as p has; got {q.n_features}")
    if n_samples < 2:
        raise ValueError(f"n_samples: expected at least 2; got {n_samples}")
    x = p.sample(n_samples, generator)
    difference = (p.log_prob(x) - q.log_prob(x)).double()
    return Estimate(float(difference.mean()), float(difference.std()) / math.sqrt(n_samples))


@torch.no_grad()
def entropy_bounds(mixture: GaussianMixture) -> tuple[float, float]:
    """Lower and upper bound of the differential entropy in nats (Kolchinsky and Tracey 2017, equations 10, 14, 15).

    Both are -sum_i w_i log sum_j w_j exp(-distance(i, j)) plus the mean entropy of the components: with the
    Bhattacharyya distance for the lower bound, with KL(i || j) for the upper. They meet where components coincide and
    where they lie far apart, and differ by at most log K. Costs K^2 D^3.

    Raises:
        NotFittedError: the mixture has no parameters yet.
    """
    mixture.require_fitted()
    n_features = mixture.n_features
    log_weights = mixture.weights.double().log()
    means, covariances = mixture.centred_means.double(), mixture.dense_covariances.double()
    lower, _ = robust_cholesky(covariances)
    half_log_det = log_determinant(lower) / 2
    entropy = 0.5 * n_features * (1 + math.log(2 * math.pi)) + half_log_det
    distances = bhattacharyya(mixture, mixture)
    closeness: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i in range(mixture.n_components):
        deviation = (means - means[i])[..., None]  # (K, D, 1)
        white = torch.linalg.solve_triangular(lower, deviation, upper=False)
        ratio = torch.linalg.solve_triangular(lower, lower[i].expand_as(lower), upper=False)
        trace = ratio.square().sum((-2, -1)) + white.square().sum((-2, -1)) - n_features
        divergence = trace / 2 + half_log_det - half_log_det[i]
        closeness[0].append((log_weights - distances[i]).logsumexp(0))
        closeness[1].append((log_weights - divergence).logsumexp(0))
    weights = log_weights.exp()
    bounds = [float(weights @ (entropy - torch.stack(values))) for values in closeness]
    return bounds[0], bounds[1]


@torch.no_grad()
def bhattacharyya(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """Bhattacharyya distance of each component of p to each of q, (K_p, K_q) float64, in nats, >= 0.

    (m_i - m_j)' S^-1 (m_i - m_j) / 8 + log(det S / sqrt(det S_i det S_j)) / 2 with S = (S_i + S_j) / 2. Zero for equal
    Gaussians, symmetric. Costs K_p K_q D^3.

    Raises:
        NotFittedError: a mixture has no parameters yet.
        ValueError: the mixtures differ in their number of features.
    """
    p.require_fitted()
    q.require_fitted()
    if p.n_features != q.n_features:
        raise ValueError(f"q: expected {p.n_features} features as p has; got {q.n_features}")
    # Relative to one location: the means may be far from zero.
    means = q.centred_means.double() + (q.location.double() - p.location.double())
    covariances, others = q.dense_covariances.double(), p.dense_covariances.double()
    half_log_det, half_others = (log_determinant(robust_cholesky(each)[0]) / 2 for each in (covariances, others))
    rows = []
    for mean, covariance, half in zip(p.centred_means.double(), others, half_others, strict=True):
        middle, _ = robust_cholesky((covariances + covariance) / 2)
        white = torch.linalg.solve_triangular(middle, (means - mean)[..., None], upper=False)
        rows.append(white.square().sum((-2, -1)) / 8 + log_determinant(middle) / 2 - (half_log_det + half) / 2)
    return torch.stack(rows)


def component_drift(before: GaussianMixture, after: GaussianMixture) -> Tensor:
    """How far the components have moved: () float64, in nats, >= 0.

    The `bhattacharyya` distance of each component of `after` to the nearest of `before`, averaged by its weight: the
    order of the components does not matter, nor does a component that has next to no points.

    Raises:
        NotFittedError, ValueError: see `bhattacharyya`.
    """
    return after.weights.detach().double() @ bhattacharyya(after, before).amin(1)


def log_determinant(lower: Tensor) -> Tensor:
    """Log-determinants (...,) of the matrices whose Cholesky factors (..., D, D) are given."""
    return 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
