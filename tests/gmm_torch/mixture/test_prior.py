"""Priors and shrinkage: against closed forms, and what they are for."""

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS

from gmm_torch import GaussianMixture
from gmm_torch.mixture.covariance.triangular import oracle_approximating_shrinkage

TYPES = ("full", "tied", "diag", "spherical", {"name": "low_rank", "rank": 2})
pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")


def points(n: int = 200, d: int = 4, seed: int = 0) -> torch.Tensor:
    """Three clusters, scaled and shifted."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(3, d, generator=generator, dtype=torch.float64)
    x = centres[torch.arange(n) % 3] + torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x * torch.arange(1, d + 1) + 10


def fit(x: torch.Tensor, k: int, covariance_type: str = "full", **options) -> GaussianMixture:
    """Without regularisation."""
    options = {"reg_covar": 0.0, "tol": 0.0, "max_iter": 30, **options}
    return GaussianMixture(k, x.shape[1], covariance_type, dtype=torch.float64).fit(x, **options)


def test_one_component_is_the_closed_form_posterior_mode():
    x, count = points(), 50.0
    mixture = fit(x, 1, prior_count=count, max_iter=3)
    n, variance = len(x), x.var(0, unbiased=False)
    # The prior's mean is the location: the data's mean to a 64th of the scale.
    centre = x.mean(0)
    mean = (n * x.mean(0) + count * centre) / (n + count)
    scatter = (x - mean).T @ (x - mean)
    expected = (scatter + count * torch.diag(variance)) / (n + count)
    torch.testing.assert_close(mixture.means[0], mean, rtol=1e-2, atol=0)
    torch.testing.assert_close(mixture.covariances[0], expected, rtol=1e-2, atol=0.05)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_penalised_objective_never_falls(covariance_type):
    mixture = fit(points(60), 4, covariance_type, prior_count=2.0, weight_concentration=3.0, reg_covar=1e-3)
    assert (mixture.history.diff() > -1e-9).all()
    assert mixture.history[-1] > mixture.history[0]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_strong_prior_draws_every_component_to_the_data_as_a_whole(covariance_type):
    x = points()
    mixture = fit(x, 3, covariance_type, prior_count=1e7, weight_concentration=1e7, max_iter=50)
    torch.testing.assert_close(mixture.weights, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-4)
    # about the location, which is the mean to a 64th of the scale
    assert ((mixture.means - x.mean(0)) / x.std(0)).abs().max() < 0.05
    variance = x.var(0, unbiased=False)
    found = mixture.dense_covariances.diagonal(dim1=-2, dim2=-1)
    if covariance_type == "spherical":
        torch.testing.assert_close(found, variance.mean().expand_as(found), rtol=1e-2, atol=0)
    else:
        torch.testing.assert_close(found, variance.expand_as(found), rtol=2e-2, atol=0)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_vanishing_prior_is_no_prior(covariance_type):
    x = points()
    start = {"means_init": x[:3]}
    without = fit(x, 3, covariance_type, **start)
    nearly = fit(x, 3, covariance_type, prior_count=1e-9, **start)
    torch.testing.assert_close(nearly.means, without.means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nearly.dense_covariances, without.dense_covariances, rtol=1e-4, atol=1e-5)


def test_a_prior_helps_where_points_are_few():
    few, many = points(40, 8), points(4000, 8, seed=0)
    plain = fit(few, 3, reg_covar=1e-6, max_iter=100)
    prior = fit(few, 3, prior_count=5.0, max_iter=100)
    assert prior.score(many) > plain.score(many) + 1


def test_shrinkage_is_that_of_scikit_learn_where_features_are_many():
    x = points(300, 250)
    expected = OAS().fit(x.numpy()).covariance_
    covariance = torch.from_numpy(np.cov(x.numpy().T, bias=True))
    found = oracle_approximating_shrinkage(covariance, torch.tensor(300.0, dtype=torch.float64))
    assert np.abs(found.numpy() - expected).max() < 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_shrinkage_helps_where_points_are_few(covariance_type):
    few, many = points(60, 12), points(4000, 12, seed=0)
    plain = fit(few, 3, covariance_type, reg_covar=1e-6, max_iter=50)
    shrunk = fit(few, 3, covariance_type, reg_covar=1e-6, shrinkage="oas", max_iter=50)
    assert shrunk.score(many) > plain.score(many)
    assert torch.isfinite(shrunk.history).all()
