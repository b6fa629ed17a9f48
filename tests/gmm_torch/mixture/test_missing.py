"""Missing features: integrated out, not filled in."""

import pytest
import torch

from gmm_torch import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical", {"name": "low_rank", "rank": 1})
pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")


def points(n: int = 600, seed: int = 0) -> torch.Tensor:
    """Two clusters with strongly correlated features, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.tensor([[1.0, 0.9, 0.5], [0, 0.4, 0.3], [0, 0, 0.5]], dtype=torch.float64)
    centres = torch.tensor([[0.0, 0, 0], [5, -5, 2]], dtype=torch.float64)
    x = centres[torch.arange(n) % 2] + torch.randn(n, 3, generator=generator, dtype=torch.float64) @ mixing
    return x + 100


def holes(x: torch.Tensor, share: float, seed: int = 1) -> torch.Tensor:
    """x with features missing at random, never all of a point."""
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    gone[gone.all(1), 0] = False
    return torch.where(gone, torch.nan, x)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_without_holes_it_is_the_ordinary_fit(covariance_type):
    x = points()
    plain = GaussianMixture(2, 3, covariance_type, dtype=torch.float64).fit(x, tol=1e-10, max_iter=250)
    same = GaussianMixture(2, 3, covariance_type, dtype=torch.float64).fit(x, missing=True, tol=1e-10, max_iter=250)
    assert same.score(x) == pytest.approx(plain.score(x), abs=1e-4)
    torch.testing.assert_close(same.log_prob(x, missing=True), same.log_prob(x), rtol=1e-8, atol=1e-8)
    assert torch.equal(same.impute(x), x)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_likelihood_of_what_is_observed_never_falls(covariance_type):
    x = holes(points(200), 0.3)
    mixture = GaussianMixture(3, 3, covariance_type, dtype=torch.float64).fit(
        x, missing=True, tol=0.0, max_iter=40, reg_covar=0.0
    )
    assert (mixture.history.diff() > -1e-8).all()
    assert mixture.history[-1] == pytest.approx(float(mixture.log_prob(x, missing=True).mean()), abs=1e-3)


def test_log_prob_is_the_marginal_density():
    mixture = GaussianMixture(2, 3, dtype=torch.float64).fit(points())
    x = points(5, seed=3)
    x[:, 1] = torch.nan
    distribution = mixture.to_distribution()
    means, covariances = mixture.means[:, [0, 2]], mixture.covariances[:, [0, 2]][:, :, [0, 2]]
    parts = torch.distributions.MultivariateNormal(means, covariances).log_prob(x[:, None, [0, 2]])
    expected = (distribution.mixture_distribution.logits + parts).logsumexp(-1)
    torch.testing.assert_close(mixture.log_prob(x, missing=True), expected, rtol=1e-8, atol=1e-8)
    nothing = torch.full((1, 3), torch.nan, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(nothing, missing=True), torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(mixture.impute(nothing)[0], mixture.weights @ mixture.means)


def test_it_finds_what_the_complete_points_show_and_filling_in_does_not():
    complete, held_out = points(3000), points(3000, seed=9)
    x = holes(complete, 0.4)
    truth = GaussianMixture(2, 3, dtype=torch.float64).fit(complete)
    filled = torch.where(torch.isnan(x), x.nanmean(0), x)
    naive = GaussianMixture(2, 3, dtype=torch.float64).fit(filled)
    found = GaussianMixture(2, 3, dtype=torch.float64).fit(x, missing=True, tol=1e-6, max_iter=300)
    assert found.score(held_out) > truth.score(held_out) - 0.05
    assert found.score(held_out) > naive.score(held_out) + 0.5
    error = (found.impute(x) - complete)[torch.isnan(x)].square().mean()
    assert error < 0.5 * (filled - complete)[torch.isnan(x)].square().mean()


@pytest.mark.parametrize(
    ("rows", "columns", "value", "message"),
    [
        (3, slice(None), torch.nan, "a value in every point; got none in 1, the first is point 3"),
        (slice(None), 2, torch.nan, "a value in every feature; got none in 1, the first is feature 2"),
        (3, 0, torch.inf, "got infinity"),
    ],
)
def test_what_can_not_be_fitted_is_said(rows, columns, value, message):
    x = points(20)
    x[rows, columns] = value
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, 3, dtype=torch.float64).fit(x, missing=True)


def test_float32_and_a_constant_feature():
    x = holes(points(300), 0.2).float()
    x[:, 0] = torch.where(torch.isnan(x[:, 0]), torch.nan, 7.0)
    mixture = GaussianMixture(2, 3).fit(x, missing=True)
    assert torch.isfinite(mixture.log_prob(x, missing=True)).all()
    torch.testing.assert_close(mixture.impute(x)[:, 0], torch.full((300,), 7.0), rtol=1e-3, atol=0)
