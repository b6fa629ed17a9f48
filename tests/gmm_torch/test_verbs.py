"""Sampling with gradients, marginals, conditionals."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from gmm_torch import GaussianMixture, NotFittedError
from gmm_torch.mixture.covariance import FAMILIES

each_type = pytest.mark.parametrize("covariance_type", sorted(FAMILIES))
K, D = 3, 4

pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")


def points(n: int = 300, separation: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = separation * torch.randn(K, 1, D, generator=generator, dtype=torch.float64)
    mixing = torch.randn(K, D, D, generator=generator, dtype=torch.float64)
    return (centres + torch.randn(K, n // K, D, generator=generator, dtype=torch.float64) @ mixing).flatten(0, 1)


def fitted(covariance_type: str = "full", x: Tensor | None = None) -> GaussianMixture:
    return GaussianMixture(K, D, covariance_type, dtype=torch.float64).fit(points() if x is None else x, max_iter=20)


# ---- torch.distributions


@each_type
def test_the_distribution_has_the_same_density_and_gradients(covariance_type):
    mixture, x = fitted(covariance_type).requires_grad_(), points()[:20]
    distribution = mixture.to_distribution()
    torch.testing.assert_close(distribution.log_prob(x), mixture.log_prob(x))
    parameters = list(mixture.parameters())
    a = torch.autograd.grad(distribution.log_prob(x).sum(), parameters)
    b = torch.autograd.grad(mixture.log_prob(x).sum(), parameters)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# ---- rsample


@each_type
def test_draws_are_the_same_with_and_without_gradient(covariance_type):
    mixture = fitted(covariance_type).requires_grad_()
    with_gradient, without = (draw(10, 1) for draw in (mixture.rsample, mixture.sample))
    assert torch.equal(with_gradient, without)
    assert with_gradient.requires_grad
    assert not without.requires_grad


@each_type
def test_the_gradient_of_a_draw_is_that_of_mean_and_covariance(covariance_type):
    # E |x - c|^2 = sum_k w_k (|mean_k - c|^2 + trace of covariance_k), of which the draws' gradient is an estimate.
    mixture, n = fitted(covariance_type), 60_000
    mixture.requires_grad_()
    mixture.logits.requires_grad_(False)
    parameters = [p for p in mixture.parameters() if p.requires_grad]
    draws = mixture.rsample(n, 0)
    estimate = torch.autograd.grad(draws.square().sum(1).mean(), parameters)
    trace = mixture.dense_covariances.diagonal(dim1=1, dim2=2).sum(1)
    exact = torch.autograd.grad((mixture.weights * (mixture.means.square().sum(1) + trace)).sum(), parameters)
    size = max(float(value.abs().max()) for value in exact)
    for a, b in zip(estimate, exact, strict=True):
        # Relative standard errors here are below 1 %; 6 % keeps a fixed seed far from a false alarm.
        torch.testing.assert_close(a, b, rtol=0.06, atol=0.02 * size)


# ---- marginals and conditionals


@each_type
def test_a_marginal_is_the_density_with_the_others_integrated_out(covariance_type):
    mixture = fitted(covariance_type)
    part = mixture.marginal([2, 0])
    x = points()[:5, [2, 0]]
    weights, means, covariances = mixture.weights, mixture.means[:, [2, 0]], mixture.dense_covariances
    covariances = covariances[:, [2, 0]][:, :, [2, 0]]
    expected = (weights.log() + MultivariateNormal(means, covariances).log_prob(x[:, None])).logsumexp(1)
    torch.testing.assert_close(part.log_prob(x), expected)


@each_type
def test_marginal_times_conditional_is_the_joint_density(covariance_type):
    mixture = fitted(covariance_type)
    for point in points()[::60]:
        known, rest = [3, 1], [0, 2]
        conditional = mixture.condition(known, point[known])
        assert conditional.n_features == 2
        product = mixture.marginal(known).log_prob(point[None, known]) + conditional.log_prob(point[None, rest])
        torch.testing.assert_close(product, mixture.log_prob(point[None]), rtol=1e-7, atol=1e-7)


def test_features_and_values_that_fit_nothing_are_refused():
    mixture = fitted()
    for features in ([], [0, 0], [4], [-1]):
        with pytest.raises(ValueError, match="features: expected distinct numbers from 0 to 3"):
            mixture.marginal(features)
    with pytest.raises(ValueError, match="fewer than all"):
        mixture.condition([0, 1, 2, 3], torch.zeros(4))
    with pytest.raises(ValueError, match=r"values: expected shape \(1,\); got \(2,\)"):
        mixture.condition([0], torch.zeros(2))
    with pytest.raises(ValueError, match="values: expected finite"):
        mixture.condition([0], torch.tensor([torch.nan]))
    with pytest.raises(NotFittedError):
        GaussianMixture(2, 2).marginal([0])
