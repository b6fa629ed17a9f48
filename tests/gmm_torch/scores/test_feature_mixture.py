"""Contributions, distances and places against brute force, for every covariance family, with and without projection."""

import pytest
import torch

from gmm_torch.features.features import Features
from gmm_torch.features.projection import Projection
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.covariance import FAMILIES
from gmm_torch.scores.feature_mixture import Block, FeatureMixture

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


def test_a_moved_feature_has_the_largest_share():
    model = build("diag")
    z = draws(20, 1)
    z[:, 4] += 100
    component = model.mixture.predict(z)
    assert (model.contributions(outputs_of(z), component).argmax(1) == 4).all()


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


def test_no_points_have_no_distances():
    model = build("full")
    assert model.distances(draws(0, 1), draws(5, 2), torch.empty(0, dtype=torch.long)).shape == (0, 5)
