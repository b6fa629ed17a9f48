"""Density ratio of two samples, by logistic regression."""

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gmm_torch.devices import widest
from gmm_torch.errors import WeightsError
from gmm_torch.evaluation.hypothesis_tests import holm, same_distribution

__all__ = ["MIN_INPUTS", "DensityRatio"]

MIN_INPUTS = 20  # of each sample
_MIN_WEIGHT = 1e-9  # keeps p-values above 0; changes no rate by more than that
# On coordinates and on products, relative to the mean loss. Products are many, and few inputs do not determine them.
_RIDGE, _RIDGE_OF_PRODUCTS = 1e-3, 1e-1
_REACH = 4.0  # standard deviations at which a coordinate saturates


class DensityRatio(nn.Module):
    """log q(t) / p(t) of statistics t (N, S), q the density of deployment inputs and p that of reference inputs.

    It is the logit of a classifier between the two samples, each of the same total weight (Bickel, Brueckner, Scheffer
    2007, "Discriminative learning for differing training and test distributions"). The classifier's terms are the
    smoothly bounded coordinates and their pairwise products, with which it represents the ratio of two Gaussians.

    Args:
        max_weight: largest ratio, above 1.

    Attributes:
        clipped: (), share of deployment inputs whose ratio is cut to `max_weight`.
        p_of_no_shift: (), p-value of "every statistic is distributed alike in both samples": Kolmogorov-Smirnov tests
            of each statistic, Holm-corrected.
    """

    centre: Tensor  # (S,)
    scale: Tensor  # (S,)
    coefficients: Tensor  # (1 + S + S (S + 1) / 2,), empty before `fit`
    clipped: Tensor
    p_of_no_shift: Tensor

    def __init__(self, max_weight: float = 5.0) -> None:
        super().__init__()
        if not 1 < max_weight < math.inf:
            raise ValueError(f"max_weight: expected a finite number above 1; got {max_weight}")
        self.max_weight = float(max_weight)
        wide = widest(torch.get_default_device())
        for name, size in (("centre", 0), ("scale", 0), ("coefficients", 0), ("clipped", ()), ("p_of_no_shift", ())):
            self.register_buffer(name, torch.zeros(size, dtype=wide))

    @property
    def fitted(self) -> bool:
        """True once there is a ratio."""
        return len(self.coefficients) > 0

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
        wide = widest(reference.device)
        self.to(reference.device, wide)
        pooled = torch.cat([reference, deployment]).to(wide)
        self.centre = pooled.mean(0)
        scale = (pooled - self.centre).square().mean(0).sqrt()
        self.scale = torch.where(scale > torch.finfo(wide).tiny, scale, torch.ones_like(scale))
        self.coefficients = _coefficients(self._terms(reference), self._terms(deployment), reference.shape[1])
        self.clipped = (self._log_ratio(deployment) > math.log(self.max_weight)).to(wide).mean()
        pairs = zip(self._standardised(reference).mT, self._standardised(deployment).mT, strict=True)
        self.p_of_no_shift = self.clipped.new_tensor(min(holm([same_distribution(*pair) for pair in pairs])))
        return self

    def forward(self, statistics: Tensor) -> Tensor:
        """Log-weights (N,) of statistics (N, S), for weights of 1e-9 to `max_weight`; NaN for NaN, no gradient."""
        with torch.no_grad():
            return self._log_ratio(statistics).clamp(math.log(_MIN_WEIGHT), math.log(self.max_weight))

    def _log_ratio(self, statistics: Tensor) -> Tensor:
        return self._terms(statistics) @ self.coefficients

    def _standardised(self, statistics: Tensor) -> Tensor:
        return (statistics.detach().to(self.centre) - self.centre) / self.scale

    def _terms(self, statistics: Tensor) -> Tensor:
        """(N, 1 + S + S (S + 1) / 2): one, the bounded coordinates, their products."""
        bounded = _REACH * (self._standardised(statistics) / _REACH).tanh()
        i, j = torch.triu_indices(bounded.shape[1], bounded.shape[1], device=bounded.device)
        return torch.cat([torch.ones_like(bounded[:, :1]), bounded, bounded[:, i] * bounded[:, j]], dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, own in list(self.named_buffers()):
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor):
                if not (value.is_floating_point() and bool(value.isfinite().all())):
                    raise ValueError("density ratio: expected finite numbers; the state is damaged")
                if own.dim():
                    setattr(self, name, own.new_empty(value.shape))
        width = len(self.centre)
        expected = [(width,), (width,), (1 + width + width * (width + 1) // 2 if self.fitted else 0,)]
        if [tuple(each.shape) for each in (self.centre, self.scale, self.coefficients)] != expected:
            raise ValueError("density ratio: expected coefficients for as many statistics; the state is damaged")
        super()._load_from_state_dict(state_dict, prefix, *args)


@torch.enable_grad()
def _coefficients(reference: Tensor, deployment: Tensor, width: int) -> Tensor:
    """(T,) coefficients of a ridge logistic regression between `_terms` (n, T) and (m, T) of S = `width` statistics."""
    ridge = torch.full_like(reference[0], _RIDGE_OF_PRODUCTS)
    ridge[0], ridge[1 : 1 + width] = 0, _RIDGE
    found = reference.new_zeros(reference.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = (softplus(reference @ found).mean() + softplus(-(deployment @ found)).mean()) / 2
        value = error + (ridge * found.square()).sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    return found.detach()
