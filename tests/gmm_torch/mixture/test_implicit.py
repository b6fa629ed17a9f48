"""Gradients of a fit in its points, implied by EM's fixed point."""

import pytest
import torch

from gmm_torch import GaussianMixture, NotFittedError
from gmm_torch.errors import SolverError
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.implicit import EMStep, Fitted
from gmm_torch.mixture.options import EMOptions

TYPES = ("full", "tied", "diag", "spherical")
REG = 1e-3
pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")


def points(n: int = 60, seed: int = 0) -> torch.Tensor:
    """Two overlapping clusters in three dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0, 0], [2.5, 1, 0]], dtype=torch.float64)
    label = torch.arange(n) % 2
    spread = torch.tensor([[1.0, 0.7, 0.5], [0.6, 1.0, 1.0]], dtype=torch.float64)[label]
    return centres[label] + spread * torch.randn(n, 3, generator=generator, dtype=torch.float64)


def fitted(
    x: torch.Tensor, covariance_type: str, weight: torch.Tensor | None = None, reg_covar: float = REG
) -> GaussianMixture:
    mixture = GaussianMixture(2, 3, covariance_type, dtype=torch.float64)
    return mixture.fit(x, reg_covar=reg_covar, tol=1e-12, max_iter=3000, sample_weight=weight)


def loss(found) -> torch.Tensor:
    """Something that every parameter enters."""
    return found.weights[0] + found.means.square().sum() + (found.covariances**2).sum()


def step_of(mixture: GaussianMixture, x: torch.Tensor, weight: torch.Tensor) -> EMStep:
    em = EM(mixture.family, 2, 3, EMOptions(reg_covar=REG), torch.float64)
    return EMStep(em, (mixture.parameters_about_location(), mixture.location), x, weight)


def unrolled(step: EMStep, n_iter: int) -> Fitted:
    """Parameters after `n_iter` iterations, with the gradient through all of them."""
    parameters = step.start
    for _ in range(n_iter):
        parameters = step(parameters)
    return step.raw(parameters)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_implied_gradient_is_the_unrolled_one_at_convergence(covariance_type):
    x = points().requires_grad_()
    weight = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64).requires_grad_()
    mixture = fitted(x.detach(), covariance_type, weight.detach())
    implied = torch.autograd.grad(loss(mixture.implicit_fit(x, weight, REG)), (x, weight))
    long = torch.autograd.grad(loss(unrolled(step_of(mixture, x, weight), 250)), (x, weight))
    for a, b in zip(implied, long, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
        assert b.abs().max() > 1e-3


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_implied_gradient_predicts_what_another_fit_finds(covariance_type):
    x = points()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # next to no regularisation: it is relative to the points' variance, and held fixed by the gradient
    mixture = fitted(x, covariance_type, reg_covar=1e-8)
    tracked = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(mixture.implicit_fit(tracked, None, 1e-8, tol=1e-12)), tracked)
    step = 1e-4
    ends = [loss(mixture.implicit_fit(x + sign * step * direction, None, 1e-8, tol=1e-13)) for sign in (1, -1)]
    expected = float(ends[0] - ends[1]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("covariance_type", [*TYPES, {"name": "low_rank", "rank": 1}])
def test_a_few_unrolled_iterations_pass_gradcheck(covariance_type):
    x = points(16)
    mixture = GaussianMixture(2, 3, covariance_type, dtype=torch.float64).fit(x, reg_covar=REG, max_iter=2)
    # regularisation and standardisation are held fixed, which finite differences in x do not: weights show the gradient
    weight = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64).requires_grad_()
    frozen = step_of(mixture, x, weight.detach())

    def outcome(w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        frozen.weight = w
        return tuple(unrolled(frozen, 2))

    assert torch.autograd.gradcheck(outcome, (weight,), eps=1e-6, atol=1e-6)


def test_values_are_those_of_the_fit():
    x = points()
    mixture = fitted(x, "full")
    found = mixture.implicit_fit(x, None, REG)
    torch.testing.assert_close(found.means, mixture.means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.covariances, mixture.covariances, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.weights, mixture.weights, rtol=1e-5, atol=1e-5)
    assert not found.means.requires_grad


def test_a_gradient_reaches_what_made_the_points():
    base = points()
    matrix = torch.eye(3, dtype=torch.float64).requires_grad_()
    mixture = fitted(base, "diag")
    mixture.implicit_fit(base @ matrix, None, REG).means.sum().backward()
    # a mean is equivariant: its sum moves with the matrix as the sum of the transformed means does
    assert matrix.grad is not None
    assert torch.isfinite(matrix.grad).all()
    assert matrix.grad.abs().max() > 0.1


def test_what_does_not_settle_is_said():
    x = points()
    mixture = GaussianMixture(2, 3, dtype=torch.float64).fit(x, max_iter=1)
    with pytest.raises(SolverError):
        mixture.implicit_fit(x, max_iter=2)
    with pytest.raises(NotFittedError):
        GaussianMixture(2, 3).implicit_fit(x)
    with pytest.raises(ValueError, match="expected finite numbers"):
        mixture.implicit_fit(x * torch.nan)
