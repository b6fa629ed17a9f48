"""Weights of points: only their ratios count, whatever counts points."""

import pytest
import torch
from torch import Tensor

from gmm_torch import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical", {"name": "low_rank", "rank": 2})
FACTORS = (1e-30, 1e-9, 3.0, 1e30)
pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")
each_type = pytest.mark.parametrize("covariance_type", TYPES)


def points(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Three clusters (240, 3), and weights over two decades, one of them zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(240, 3, generator=generator, dtype=torch.float64)
    x[:80] += 5
    x[80:160, 0] -= 5
    weight = 10 ** (2 * torch.rand(240, generator=generator, dtype=torch.float64) - 1)
    weight[7] = 0
    return x.to(dtype), weight


def agree(a: GaussianMixture, b: GaussianMixture, x: Tensor, tol: float) -> None:
    torch.testing.assert_close(a.log_prob(x), b.log_prob(x), rtol=tol, atol=tol)
    torch.testing.assert_close(a.history, b.history, rtol=tol, atol=tol)


# Every type in both formats, at once in one of them and in parts in the other.
@pytest.mark.parametrize(
    ("covariance_type", "dtype", "tol", "at_once"),
    [
        (covariance_type, dtype, tol, bool((number + place) % 2))
        for number, covariance_type in enumerate(TYPES)
        for place, (dtype, tol) in enumerate([(torch.float32, 1e-4), (torch.float64, 1e-9)])
    ],
    ids=str,
)
def test_a_fit_does_not_change_when_all_weights_are_multiplied(monkeypatch, covariance_type, dtype, tol, at_once):
    x, weight = points(dtype)
    source = x
    if not at_once:
        monkeypatch.setattr("gmm_torch.mixture.batches.ROWS", 50)
        source = x.numpy()
    fits = [
        GaussianMixture(3, 3, covariance_type, dtype=dtype).fit(
            source, sample_weight=weight * factor, max_iter=6, tol=0.0
        )
        for factor in (1.0, *FACTORS)
    ]
    for fit in fits[1:]:
        agree(fit, fits[0], x, tol)


@each_type
def test_a_prior_counts_points_of_the_mean_weight(covariance_type):
    x, weight = points()
    options = {"prior_count": 4.0, "weight_concentration": 3.0, "max_iter": 6, "tol": 0.0}
    fits = [
        GaussianMixture(3, 3, covariance_type, dtype=torch.float64).fit(x, sample_weight=weight * factor, **options)
        for factor in (1.0, *FACTORS)
    ]
    for fit in fits[1:]:
        agree(fit, fits[0], x, 1e-9)
    equal = GaussianMixture(3, 3, covariance_type, dtype=torch.float64).fit(
        x, sample_weight=torch.full((240,), 7.0), **options
    )
    agree(equal, GaussianMixture(3, 3, covariance_type, dtype=torch.float64).fit(x, **options), x, 1e-9)


@each_type
@pytest.mark.parametrize("total", [0.1, 1.0, 1e6])
def test_the_objective_never_falls_whatever_the_total_weight(covariance_type, total):
    # More components than clusters, one of them far away: it has no points and is moved.
    x, weight = points()
    begin = torch.cat([x[:5], x.new_full((1, 3), 1e4)])
    mixture = GaussianMixture(6, 3, covariance_type, dtype=torch.float64)
    mixture.fit(x, sample_weight=weight / weight.sum() * total, means_init=begin, max_iter=30, tol=0.0)
    assert (mixture.history.diff() > -1e-10).all()


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("window", [None, 100])
def test_a_stream_does_not_change_when_all_weights_are_multiplied(covariance_type, window):
    x, weight = points()
    shuffled = torch.randperm(240, generator=torch.Generator().manual_seed(2))
    streams = []
    for factor in (1.0, *FACTORS):
        mixture = GaussianMixture(3, 3, covariance_type, dtype=torch.float64)
        for rows in shuffled.split(30):
            mixture.partial_fit(x[rows], weight[rows] * factor, window=window)
        streams.append(mixture)
    for mixture in streams[1:]:
        agree(mixture, streams[0], x, 1e-9)


def test_gradients_of_a_fit_do_not_change_when_all_weights_are_multiplied():
    x, weight = points()
    weight = weight + 0.1
    mixture = GaussianMixture(3, 3, dtype=torch.float64).fit(x, sample_weight=weight, tol=1e-10, max_iter=500)
    found = []
    for factor in (1.0, 1e-30, 1e30):
        leaf = x.clone().requires_grad_()
        relative = weight.clone().requires_grad_()
        mixture.implicit_fit(leaf, relative * factor).means.square().sum().backward()
        found.append((leaf.grad, relative.grad))
    for pair in found[1:]:
        torch.testing.assert_close(pair, found[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("factor", [1e-250, 1.0, 1e250])
def test_a_score_does_not_change_when_all_weights_are_multiplied(factor):
    x, weight = points()
    mixture = GaussianMixture(2, 3, dtype=torch.float64).fit(x)
    assert mixture.score(x, weight * factor) == pytest.approx(mixture.score(x, weight), rel=1e-12)
