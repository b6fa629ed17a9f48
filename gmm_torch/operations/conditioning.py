"""Marginals and conditionals: mixtures again, over some of the features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gmm_torch.functional.densities import log_normal
from gmm_torch.functional.linear_algebra import robust_cholesky
from gmm_torch.mixture import GaussianMixture


def marginal(mixture: GaussianMixture, features: Sequence[int]) -> GaussianMixture:
    """The distribution of some features, whatever the others are.

    Args:
        mixture: over D features.
        features: which of them, in the order wanted; none twice.

    Returns:
        a mixture of the type "full" over `len(features)` features.

    Raises:
        ValueError: no feature, one twice, or one that does not exist.
        NotFittedError: the mixture has no parameters yet.
    """
    kept = _checked(features, mixture.n_features)
    weights, means, covariances = _dense(mixture)
    return _mixture(mixture, weights.log(), means[:, kept], covariances[:, kept][:, :, kept])


def condition(mixture: GaussianMixture, features: Sequence[int], values: Tensor) -> GaussianMixture:
    """The distribution of the other features, given the values of some (Bishop 2006, equations 2.81 and 2.82).

    Args:
        mixture: over D features.
        features: which are known; none twice, and not all.
        values: (len(features),), what they are.

    Returns:
        a mixture of the type "full" over the other features, in their order.

    Raises:
        ValueError: no feature, one twice, all, or one that does not exist; values of another shape or not finite.
        NotFittedError: the mixture has no parameters yet.
    """
    known = _checked(features, mixture.n_features)
    rest = [i for i in range(mixture.n_features) if i not in known]
    if not rest:
        raise ValueError("features: expected some to be left unknown; got all of them")
    if values.shape != (len(known),):
        raise ValueError(f"values: expected shape ({len(known)},); got {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("values: expected finite numbers; got NaN or infinity")
    weights, means, covariances = _dense(mixture)
    lower, _ = robust_cholesky(covariances[:, known][:, :, known])
    # Whitened deviation of the known features, and their covariance with the others in the same coordinates.
    deviation = (values.to(means) - means[:, known])[..., None]
    white = torch.linalg.solve_triangular(lower, deviation, upper=False)
    cross = torch.linalg.solve_triangular(lower, covariances[:, known][:, :, rest], upper=False)
    log_det = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    evidence = log_normal(white.square().sum((-2, -1)), log_det, len(known))
    return _mixture(
        mixture,
        weights.log() + evidence,
        means[:, rest] + (cross.mT @ white)[..., 0],
        covariances[:, rest][:, :, rest] - cross.mT @ cross,
    )


def _checked(features: Sequence[int], n_features: int) -> list[int]:
    chosen = [int(i) for i in features]
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= n_features:
        raise ValueError(f"features: expected distinct numbers from 0 to {n_features - 1}; got {chosen}")
    return chosen


@torch.no_grad()
def _dense(mixture: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, D) and covariances (K, D, D) in float64."""
    mixture.require_fitted()
    return mixture.weights.double(), mixture.means.double(), mixture.dense_covariances.double()


def _mixture(source: GaussianMixture, log_weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
    device, dtype = source.location.device, source.location.dtype
    result = GaussianMixture(source.n_components, means.shape[1], "full", device=device, dtype=dtype)
    return result.set_parameters(log_weights.softmax(0), means, covariances)
