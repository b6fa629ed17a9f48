"""Gradients of a fitted mixture in the points that it was fitted to, at EM's fixed point."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmm_torch.errors import SolverError
from gmm_torch.mixture.covariance import CovarianceFamily
from gmm_torch.mixture.data_summary import DataSummary
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.parameters import Parameters

__all__ = ["EMStep", "Fitted", "implicit"]

_Map = Callable[[Tensor], Tensor]  # flat parameters -> flat parameters


class Fitted(NamedTuple):
    """Weights (K,), means (K, D) and covariances as in `GaussianMixture`, with gradients to points and weights."""

    weights: Tensor
    means: Tensor
    covariances: Tensor


class EMStep:
    """One iteration of EM on all points as a differentiable map of parameters, in float64 and standardised coordinates.

    Standardisation and regularisation are computed from the points once, without gradient.

    Args:
        em: new, in float64; of its options `reg_covar` and `reg_mode` matter.
        start: parameters about a location (D,), and the location.
        x: (N, D).
        weight: (N,) >= 0, or None.
    """

    def __init__(self, em: EM, start: tuple[Parameters, Tensor], x: Tensor, weight: Tensor | None) -> None:
        self.family: CovarianceFamily = em.family
        summary = em.accumulate(x.detach(), None if weight is None else weight.detach())
        assert isinstance(summary, DataSummary)
        em.standardise(summary)  # of this process alone, like its gradient
        self.standardisation, self.reg_covar, self.penalty = em.standardisation, em.reg_covar, em.penalty
        raw = start[0].map(lambda value: value.detach().double())
        self.start = self.standardisation.parameters(self.family, raw, start[1])
        location, scale = self.standardisation.location, self.standardisation.scale
        self.features = self.family.features(((x.double() - location) / scale).mT)
        relative = em.relative(weight, len(x))
        self.weight = x.new_ones(len(x), dtype=torch.float64) if relative is None else relative.double()

    def __call__(self, parameters: Parameters) -> Parameters:
        """The next iteration's parameters."""
        prepared = self.family.prepare(parameters, self.penalty)
        responsibilities = self.family.log_joint(prepared, self.features).softmax(-2) * self.weight
        moments = self.family.moments(prepared, self.features, responsibilities)
        return self.family.update(moments, self.reg_covar, parameters)[0]

    def pack(self, parameters: Parameters) -> Tensor:
        """Parameters as one vector."""
        return torch.cat([value.flatten() for value in parameters.state_dict().values()])

    def unpack(self, flat: Tensor) -> Parameters:
        """The inverse of `pack`."""
        like = self.start.state_dict()
        parts = flat.split([value.numel() for value in like.values()])
        shaped = {name: part.view(like[name].shape) for name, part in zip(like, parts, strict=True)}
        return Parameters.from_state_dict(shaped)

    def raw(self, parameters: Parameters) -> Fitted:
        """Parameters in raw units."""
        found = self.standardisation.undo(self.family, parameters)
        covariances = self.family.covariances(found.factors, found.means.shape[-1])
        return Fitted(found.log_weights.exp(), found.means + self.standardisation.location, covariances)


def implicit(step: EMStep, tol: float, max_iter: int) -> Fitted:
    """See `GaussianMixture.implicit_fit`."""
    fixed = _find_fixed_point(lambda flat: step.pack(step(step.unpack(flat))), step.pack(step.start), tol, max_iter)
    if not (torch.is_grad_enabled() and (step.features.requires_grad or step.weight.requires_grad)):
        return step.raw(step.unpack(fixed))
    fixed = fixed.requires_grad_()
    with torch.enable_grad():
        after = step.pack(step(step.unpack(fixed)))
        found = after.clone()

    def solve(gradient: Tensor) -> Tensor:
        """(I - dF/dt)'^-1 dL/dt, for which F's own backward pass takes dL/dt."""
        if torch.is_grad_enabled():
            raise RuntimeError("implicit_fit: expected one derivative; got create_graph=True")

        def transposed(vector: Tensor) -> Tensor:
            return torch.autograd.grad(after, fixed, vector, retain_graph=True)[0]

        return _solve_adjoint(transposed, gradient, tol, max_iter)

    found.register_hook(solve)
    return step.raw(step.unpack(found))


def _find_fixed_point(function: _Map, start: Tensor, tol: float, max_iter: int) -> Tensor:
    """A point that `function` moves by at most `tol` in any coordinate; SolverError after `max_iter` iterations."""
    with torch.no_grad():
        change = torch.inf
        for _ in range(max_iter):
            after = function(start)
            change = float((after - start).abs().max())
            start = after
            if change <= tol:
                return start
    raise SolverError(
        f"expected EM to settle within {max_iter} iterations to {tol:g}; it still moves by {change:.3g}: raise "
        "max_iter, or use fewer components"
    )


def _solve_adjoint(transposed: _Map, gradient: Tensor, tol: float, max_iter: int) -> Tensor:
    """The u with u - J' u = gradient, for a `transposed` Jacobian given as a function; SolverError if GMRES fails."""
    from scipy.sparse.linalg import LinearOperator, gmres

    n = len(gradient)

    def product(vector: np.ndarray) -> np.ndarray:
        u = torch.from_numpy(vector).to(gradient)
        return (u - transposed(u)).cpu().numpy()

    right = gradient.detach().cpu().numpy()
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    restart = min(n, 50)
    solution, code = gmres(operator, right, rtol=tol, restart=restart, maxiter=-(-max_iter // restart))
    if code:
        raise SolverError(
            f"expected GMRES to solve for the gradient within {max_iter} iterations to {tol:g}; it did not: raise "
            "max_iter, or use fewer components (two that nearly coincide leave the fixed point undetermined)"
        )
    return torch.from_numpy(solution).to(gradient)
