"""Density ratio of two samples, from two mixtures, with a check by logistic regression."""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_torch.checks import check_count
from gmm_torch.devices import widest
from gmm_torch.errors import WeightsError
from gmm_torch.evaluation.hypothesis_tests import holm, same_distribution
from gmm_torch.mixture import GaussianMixture

__all__ = ["MIN_INPUTS", "DensityRatio"]

MIN_INPUTS = 20  # of each sample, and for each component
_MAX_WIDTH, _MAX_COMPONENTS = 2**10, 2**10  # of a stored ratio
_REG_COVAR = 1e-2
_MIN_WEIGHT = 1e-9  # keeps p-values above 0; changes no rate by more than that
_RIDGE = 1e-2  # of the logistic regression, on standardised terms, relative to the mean loss of each sample
_MAX_STEPS, _TOLERANCE = 50, 1e-9
_REACH = 4.0  # standard deviations at which a coordinate saturates


class DensityRatio(nn.Module):
    """log q(t) / p(t) of statistics t (N, S): q is a mixture fitted to deployment inputs, p one to reference inputs.

    Both fits start from a mixture of all inputs together, so that they agree if the two distributions do, and the ratio
    is near 1 (Sugiyama, Suzuki, Kanamori 2012, "Density ratio estimation in machine learning", section 2.3, has the
    ratio of two estimates; the common start lowers its variance).

    Args:
        n_components: K of both mixtures; fewer for few inputs, one for every twenty.
        max_weight: largest ratio, above 1.

    Attributes:
        clipped: (), share of deployment inputs whose ratio is cut to `max_weight`.
        disagreement: (), total variation distance between the distributions that these weights and weights by logistic
            regression stand for: their rates differ by at most that.
        p_of_no_shift: (), p-value of "every statistic is distributed alike in both samples": Kolmogorov-Smirnov tests
            of each statistic, Holm-corrected.
    """

    centre: Tensor
    scale: Tensor
    clipped: Tensor
    disagreement: Tensor
    p_of_no_shift: Tensor

    def __init__(self, n_components: int = 3, max_weight: float = 5.0) -> None:
        super().__init__()
        check_count("n_components", n_components)
        if not 1 < max_weight < math.inf:
            raise ValueError(f"max_weight: expected a finite number above 1; got {max_weight}")
        self.n_components = n_components
        self.max_weight = float(max_weight)
        self._make_room(1, 1)
        for name in ("clipped", "disagreement", "p_of_no_shift"):
            self.register_buffer(name, torch.zeros((), dtype=widest(torch.get_default_device())))

    @property
    def fitted(self) -> bool:
        """True once there is a ratio."""
        return self.deployment.is_fitted

    @torch.inference_mode(False)
    @torch.no_grad()
    def fit(self, reference: Tensor, deployment: Tensor) -> Self:
        """Learn the ratio from statistics of reference inputs (n, S) and of deployment inputs (m, S), finite.

        Raises:
            WeightsError: fewer than 20 of either.
            ValueError: shapes, numbers that are not finite.
        """
        if reference.dim() != 2 or deployment.dim() != 2 or reference.shape[1] != deployment.shape[1]:
            raise ValueError(
                f"reference and deployment statistics: expected (n, S) and (m, S); got {tuple(reference.shape)} and "
                f"{tuple(deployment.shape)}"
            )
        for name, value in (("reference", reference), ("deployment", deployment)):
            if len(value) < MIN_INPUTS:
                raise WeightsError(f"{name} inputs: expected at least {MIN_INPUTS}; got {len(value)}: give more")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} statistics: expected finite numbers; got NaN or infinity: leave such out")
        n_components = max(1, min(self.n_components, len(reference) // MIN_INPUTS, len(deployment) // MIN_INPUTS))
        self._make_room(n_components, reference.shape[1])
        wide = widest(reference.device)
        pooled = torch.cat([reference, deployment]).to(wide)
        self.to(reference.device, wide)
        self.centre = pooled.mean(0)
        scale = (pooled - self.centre).square().mean(0).sqrt()
        self.scale = torch.where(scale > torch.finfo(wide).tiny, scale, torch.ones_like(scale))
        old, new = self._standardised(reference), self._standardised(deployment)
        start = GaussianMixture(n_components, reference.shape[1], device=old.device, dtype=wide)
        start.fit(torch.cat([old, new]), reg_covar=_REG_COVAR, shrinkage="oas")
        precisions = torch.linalg.inv_ex(start.dense_covariances).inverse
        given = {"weights_init": start.weights, "means_init": start.means, "precisions_init": precisions}
        self.reference.fit(old, reg_covar=_REG_COVAR, shrinkage="oas", **given)
        self.deployment.fit(new, reg_covar=_REG_COVAR, shrinkage="oas", **given)
        self.clipped = (self._log_ratio(deployment) > math.log(self.max_weight)).to(wide).mean()
        ours, other = self(reference), _logistic_log_ratio(old, new)(old)
        weights = [value.clamp_max(math.log(self.max_weight)).softmax(0) for value in (ours, other)]
        self.disagreement = (weights[0] - weights[1]).abs().sum() / 2
        self.p_of_no_shift = self.clipped.new_tensor(_p_of_no_shift(old, new))
        return self

    def forward(self, statistics: Tensor) -> Tensor:
        """Log-weights (N,) of statistics (N, S), for weights of 1e-9 to `max_weight`; NaN for NaN, no gradient."""
        with torch.no_grad():
            return self._log_ratio(statistics).clamp(math.log(_MIN_WEIGHT), math.log(self.max_weight))

    def _log_ratio(self, statistics: Tensor) -> Tensor:
        points = self._standardised(statistics)
        return self.deployment.log_prob(points) - self.reference.log_prob(points)

    def _standardised(self, statistics: Tensor) -> Tensor:
        return (statistics.detach().to(self.centre) - self.centre) / self.scale

    def _make_room(self, n_components: int, width: int) -> None:
        dtype = widest(torch.get_default_device())
        self.reference = GaussianMixture(n_components, width, dtype=dtype)
        self.deployment = GaussianMixture(n_components, width, dtype=dtype)
        self.register_buffer("centre", torch.zeros(width, dtype=dtype))
        self.register_buffer("scale", torch.ones(width, dtype=dtype))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = [value for name, value in state_dict.items() if name.startswith(prefix) and isinstance(value, Tensor)]
        if not all(bool(value.isfinite().all()) for value in own):
            raise ValueError("density ratio: expected finite numbers; the state is damaged")
        means = state_dict.get(f"{prefix}reference.centred_means")
        if isinstance(means, Tensor) and means.dim() == 2:
            n_components, width = means.shape
            if not (0 < n_components <= _MAX_COMPONENTS and 0 < width <= _MAX_WIDTH and means.is_floating_point()):
                raise ValueError(f"density ratio: expected mixtures of a size that can be; got {tuple(means.shape)}")
            device = self.centre.device
            self._make_room(n_components, width)
            self.to(device, means.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _p_of_no_shift(reference: Tensor, deployment: Tensor) -> float:
    return min(holm([same_distribution(*pair) for pair in zip(reference.mT, deployment.mT, strict=True)]))


def _logistic_log_ratio(reference: Tensor, deployment: Tensor) -> Callable[[Tensor], Tensor]:
    """log q(t) / p(t) as the logit of a classifier between two samples of equal total weight.

    Bickel, Brueckner, Scheffer 2007, "Discriminative learning for differing training and test distributions". The terms
    are the smoothly bounded coordinates and their pairwise products, which can represent two Gaussians.

    Args:
        reference, deployment: (n, S) and (m, S) float64, drawn from p and q, standardised together.

    Returns:
        Function from points (N, S) to (N,).
    """
    n, m = len(reference), len(deployment)
    terms = _terms(torch.cat([reference, deployment]))
    target = torch.cat([reference.new_zeros(n), reference.new_ones(m)])
    share = torch.cat([reference.new_full((n,), 0.5 / n), reference.new_full((m,), 0.5 / m)])
    ridge = torch.full_like(terms[0], _RIDGE)
    ridge[0] = 0
    coefficients = torch.zeros_like(terms[0])
    loss = _loss(terms, target, share, ridge, coefficients)
    for _ in range(_MAX_STEPS):
        probability = (terms @ coefficients).sigmoid()
        gradient = terms.mT @ (share * (probability - target)) + ridge * coefficients
        curvature = (terms * (share * probability * (1 - probability))[:, None]).mT @ terms
        curvature = curvature + (ridge + 1e-12).diag()
        step = torch.linalg.solve_ex(curvature, gradient).result
        factor = 1.0
        while factor > _TOLERANCE:  # halve a step that is too long: the loss never rises
            new = _loss(terms, target, share, ridge, coefficients - factor * step)
            if bool(new <= loss):
                break
            factor /= 2
        else:
            break
        coefficients = coefficients - factor * step
        if bool(loss - new <= _TOLERANCE * loss):
            break
        loss = new
    return lambda points: _terms(points) @ coefficients


def _terms(points: Tensor) -> Tensor:
    """(N, 1 + S + S (S + 1) / 2): one, the bounded coordinates, their products."""
    bounded = _REACH * (points / _REACH).tanh()
    i, j = torch.triu_indices(points.shape[1], points.shape[1], device=points.device)
    return torch.cat([torch.ones_like(bounded[:, :1]), bounded, bounded[:, i] * bounded[:, j]], dim=1)


def _loss(terms: Tensor, target: Tensor, share: Tensor, ridge: Tensor, coefficients: Tensor) -> Tensor:
    logits = terms @ coefficients
    entropy = torch.nn.functional.softplus(logits) - target * logits
    return (share * entropy).sum() + (ridge * coefficients.square()).sum() / 2
