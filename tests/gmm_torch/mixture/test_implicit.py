"""Gradients of a fit in its points, at EM's fixed point."""

import pytest
import torch

from gmm_torch import GaussianMixture, NotFittedError
from gmm_torch.errors import SolverError
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.implicit import EMStep
from gmm_torch.mixture.options import EMOptions

TYPES = ("full", "tied", "diag", "spherical")
REG = 1e-3
pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")


def points(n: int = 60) -> torch.Tensor:
    """Two overlapping clusters in three dimensions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [2.5, 1, 0]], dtype=torch.float64)
    label = torch.arange(n) % 2
    spread = torch.tensor([[1.0, 0.7, 0.5], [0.6, 1.0, 1.0]], dtype=torch.float64)[label]
    return centres[label] + spread * torch.randn(n, 3, generator=generator, dtype=torch.float64)


def fitted(x: torch.Tensor, covariance_type: str, weight: torch.Tensor | None = None, reg_covar: float = REG):
    mixture = GaussianMixture(2, 3, covariance_type, dtype=torch.float64)
    return mixture.fit(x, reg_covar=reg_covar, tol=1e-12, max_iter=3000, sample_weight=weight)


def step_of(mixture: GaussianMixture, x: torch.Tensor, weight: torch.Tensor) -> EMStep:
    em = EM(mixture.family, 2, 3, EMOptions(reg_covar=REG), torch.float64)
    return EMStep(em, (mixture.parameters_about_location(), mixture.location), x, weight)


def unrolled(step: EMStep, n_iter: int):
    """Parameters after `n_iter` iterations, with the gradient through all of them."""
    parameters = step.start
    for _ in range(n_iter):
        parameters = step(parameters)
    return step.raw(parameters)


def loss(found) -> torch.Tensor:
    """A function of every parameter."""
    return found.weights[0] + found.means.square().sum() + (found.covariances**2).sum()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_implicit_gradient_is_the_unrolled_one_at_convergence(covariance_type):
    x = points().requires_grad_()
    weight = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64).requires_grad_()
    mixture = fitted(x.detach(), covariance_type, weight.detach())
    found = mixture.implicit_fit(x, weight, REG)
    torch.testing.assert_close(found.means.detach(), mixture.means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.covariances.detach(), mixture.covariances, rtol=1e-4, atol=1e-5)
    implied = torch.autograd.grad(loss(found), (x, weight))
    long = torch.autograd.grad(loss(unrolled(step_of(mixture, x, weight), 250)), (x, weight))
    for a, b in zip(implied, long, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
        assert b.abs().max() > 1e-3


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_implicit_gradient_predicts_another_fit(covariance_type):
    x = points()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # Almost no regularisation: it depends on the points' variance, and the gradient holds it fixed.
    mixture, tracked = fitted(x, covariance_type, reg_covar=1e-8), x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(mixture.implicit_fit(tracked, None, 1e-8, tol=1e-12)), tracked)
    ends = [loss(mixture.implicit_fit(x + sign * 1e-4 * direction, None, 1e-8, tol=1e-13)) for sign in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-3)
    assert not ends[0].requires_grad


@pytest.mark.parametrize("covariance_type", [*TYPES, {"name": "low_rank", "rank": 1}])
def test_a_few_iterations_pass_gradcheck(covariance_type):
    x = points(16)
    mixture = GaussianMixture(2, 3, covariance_type, dtype=torch.float64).fit(x, reg_covar=REG, max_iter=2)
    # In the weights: regularisation and standardisation depend on x, and the gradient holds them fixed.
    weight = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64).requires_grad_()
    frozen = step_of(mixture, x, weight.detach())

    def outcome(w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        frozen.weight = w
        return tuple(unrolled(frozen, 2))

    assert torch.autograd.gradcheck(outcome, (weight,), eps=1e-6, atol=1e-6)


def test_a_missing_fixed_point_is_an_error():
    x = points()
    mixture = GaussianMixture(2, 3, dtype=torch.float64).fit(x, max_iter=1)
    with pytest.raises(SolverError):
        mixture.implicit_fit(x, max_iter=2)
    with pytest.raises(NotFittedError):
        GaussianMixture(2, 3).implicit_fit(x)
    with pytest.raises(ValueError, match="finite"):
        mixture.implicit_fit(x * torch.nan)
