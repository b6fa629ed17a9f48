"""Contributions, distances and places against brute force, for every covariance family, with and without projection."""

import warnings

import pytest
import torch

from gmm_torch.errors import ComponentsWarning
from gmm_torch.features.features import Features
from gmm_torch.features.projection import Projection
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.covariance import FAMILIES
from gmm_torch.scores import make_score
from gmm_torch.scores.feature_mixture import Block, FeatureMixture, half_gradient, warn_of_unused_components

D, K = 6, 3
TYPES = [name if name != "low_rank" else {"name": "low_rank", "rank": 2} for name in FAMILIES]


def draws(n, seed, width=D):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(9))
    return torch.randn(n, width, generator=generator) @ mixing + 3


def outputs_of(z):
    return Features(torch.zeros(len(z), 1, 2), {"layer": z[:, None]})


def build(covariance_type, max_width=None):
    z = draws(400, 0)
    projection = Projection(D, max_width).fit(z) if max_width else None
    points = projection(z) if projection else z
    mixture = GaussianMixture(K, points.shape[1], covariance_type).fit(points, seed=0, reg_covar=1e-2)
    return FeatureMixture(mixture, lambda o: o.layers["layer"].flatten(1), [Block("layer", 1, D)], projection)


def squared(model, points, anchors, component):
    """By inverse matrices in float64."""
    precisions = torch.linalg.inv(model.mixture.dense_covariances.double())[component]
    deviation = points.double() - anchors.double()
    return torch.einsum("ni,nij,nj->n", deviation, precisions, deviation)


@pytest.mark.parametrize("max_width", [None, 4], ids=["all features", "projected"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_contributions_sum_to_the_squared_distance(covariance_type, max_width):
    model = build(covariance_type, max_width)
    outputs = outputs_of(draws(50, 1) * 2)
    component = torch.arange(50) % K
    contributions = model.contributions(outputs, component)
    assert contributions.shape == (50, D + (max_width is not None))
    points = model.points(outputs)
    expected = squared(model, points, model.mixture.means[component], component)
    # the exact sum: both sides from the stored float32 factors, one by their inverse
    torch.testing.assert_close(contributions.sum(1), expected, rtol=1e-4, atol=1e-4)


def test_the_sum_is_exact_in_float64_and_each_share_is_its_formula():
    model = build("full")
    model.mixture.double()
    z = draws(50, 1).double()
    component = model.mixture.predict(z)
    contributions = model.contributions(outputs_of(z), component)
    deviation = z - model.mixture.means[component]
    precisions = torch.linalg.inv(model.mixture.dense_covariances)[component]
    torch.testing.assert_close(contributions, deviation * torch.einsum("nij,nj->ni", precisions, deviation))
    expected = squared(model, z, model.mixture.means[component], component)
    torch.testing.assert_close(contributions.sum(1), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_distances_are_those_of_the_metric_of_the_points_own_component(covariance_type):
    model = build(covariance_type)
    points, anchors = draws(30, 1), draws(17, 2)
    component = torch.tensor([0, 0, 2, 1, 0] * 6)  # uneven, with repeats
    found = model.distances(points, anchors, component)
    assert found.shape == (30, 17)
    for j in range(17):
        expected = squared(model, points, anchors[j].expand(30, -1), component).sqrt()
        torch.testing.assert_close(found[:, j].double(), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def precision():
    root = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return root @ root.mT + torch.eye(5, dtype=torch.float64)


def test_half_the_gradient_is_the_matrix_times_the_deviation_without_grad_mode_too(precision):
    v = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for switched_off in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with switched_off():
            found = half_gradient(lambda u: ((u @ precision) * u).sum(-1), v)
        assert not found.requires_grad
        torch.testing.assert_close(found, v @ precision)


def test_shares_have_expectation_one(precision):
    noise = torch.randn(40_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    v = noise @ torch.linalg.inv(torch.linalg.cholesky(precision))  # covariance is the inverse of the precision
    shares = v * half_gradient(lambda u: ((u @ precision) * u).sum(-1), v)
    assert (shares.mean(0) - 1).abs().max() < 5 * shares.std(0).max() / 200  # five standard errors


def outputs(logits: torch.Tensor) -> Features:
    return Features(logits[:, None], {})


def model(means: list[float]) -> FeatureMixture:
    k = len(means)
    mixture = GaussianMixture(k, 1, "spherical")
    mixture.set_parameters(torch.full((k,), 1 / k), torch.tensor(means)[:, None], torch.ones(k))
    return FeatureMixture(mixture, lambda outputs: outputs.logits[:, 0], [])


def test_one_component_that_holds_nearly_all_is_told_with_the_numbers():
    x = outputs(torch.cat([torch.zeros(95, 1), torch.full((5, 1), 100.0)]))
    with pytest.warns(ComponentsWarning, match=r"moments: 95% of 100 inputs fall to one of 2 components.* 1\.2 comp"):
        warn_of_unused_components({"moments": model([0.0, 100.0])}, x)


def test_components_in_use_and_single_ones_are_not_told():
    x = outputs(torch.cat([torch.zeros(60, 1), torch.full((40, 1), 100.0)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unused_components({"two": model([0.0, 100.0]), "one": model([0.0])}, x)


@pytest.mark.parametrize(("n", "width"), [(100, 60), (400, 60), (400, 300), (400, 700)])
def test_new_inputs_use_the_components_however_few_points_there_were_for_the_width(n, width):
    """Without shrinkage, and with more directions than points tell, all new inputs fall to the widest component."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 2 * width, generator=generator)  # classes that overlap, in few of many directions

    def drawn(n):
        latent = torch.randn(n, 6, generator=generator) + 2 * torch.eye(6)[torch.randint(6, (n,), generator=generator)]
        features = (latent @ mixing + 2 * torch.randn(n, 2 * width, generator=generator)).abs()
        return Features(latent[:, None], {"stage": features[:, None]})

    score = make_score("moment_likelihood").build({"stage": 2 * width}, 1, 6)
    score.fit(drawn(n), lambda mixture, z: mixture.fit(z, reg_covar=1e-2, shrinkage="oas"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unused_components(score.models(), drawn(500))
