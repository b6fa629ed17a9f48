"""Depth consistency: what layers before the last say of a prediction, given how sure the classifier is of it."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.detector import FeatureExtractor
from gmm_torch.features.features import Features, log_odds
from gmm_torch.features.layers import stage_ends
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.covariance.tied import Tied
from gmm_torch.scores import make_score
from gmm_torch.scores.conditional_consistency import log_conditional_tail
from gmm_torch.scores.depth_consistency import (
    MAX_FULL,
    PRIOR,
    REG_COVAR,
    TEMPERATURES,
    best_temperature,
    fit_classes,
    log_posterior,
)
from tests.gmm_torch.conftest import TinyNet, batches, images

D, C = 5, 3


def fitter(mixture, points):
    return mixture.fit(points, reg_covar=1e-2, seed=0)


def clean(n, seed):
    """A layer that knows the class, and logits that follow from it."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (n,), generator=generator)
    z = 3 * torch.eye(D)[:C][label] + torch.randn(n, D, generator=generator)
    logits = 3 * z[:, :C] + torch.randn(n, C, generator=generator)
    return Features(logits[:, None], {"z": z[:, None]})


def test_a_sure_prediction_that_the_layer_is_against_scores_low():
    score = make_score("depth_consistency", n_components=3).build({"z": D}, 1, C).fit(clean(2000, 0), fitter)
    good = clean(500, 1)
    bad = Features(good.logits.roll(1, dims=2), good.layers)  # as sure as before, of another class
    auroc = stats.mannwhitneyu(score(good).numpy(), score(bad).numpy()).statistic / 500**2
    assert auroc > 0.95
    assert (score(good) <= 0).all()
    # P(D <= d | S) of clean inputs is nearly uniform, however sure the classifier is: the second mixture fits them
    new = clean(2000, 2)
    assert stats.kstest(score(new).exp().numpy(), "uniform").statistic < 0.1
    sure = log_odds(new.own_logits, new.own_logits.argmax(1))
    assert abs(stats.spearmanr(sure.numpy(), score(new).numpy()).statistic) < 0.15


def test_many_classes_are_told_apart_without_a_difference_for_each_input_class_and_feature(monkeypatch):
    n_classes = MAX_FULL + 20
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, n_classes, (900,), generator=generator)
    z = 3 * torch.randn(n_classes, 8, generator=generator)[label] + torch.randn(900, 8, generator=generator)
    outputs = Features(8 * torch.nn.functional.one_hot(label, n_classes).float()[:, None], {"z": z[:, None]})
    expected = make_score("depth_consistency").build({"z": 8}, 1, n_classes).fit(outputs, fitter)
    mixture, points = expected.classes[0], expected.maps[0](z)
    joint, found = mixture.log_joint(points).double(), log_posterior(mixture, points).double()
    torch.testing.assert_close(found.log_softmax(1), joint.log_softmax(1), rtol=1e-4, atol=1e-3)

    def differences(*_):
        raise AssertionError("N K D numbers")

    monkeypatch.setattr(Tied, "squared_distance", differences)
    again = make_score("depth_consistency").build({"z": 8}, 1, n_classes).fit(outputs, fitter)
    assert torch.equal(again(outputs), expected(outputs))


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 2.5, 9.0, 400.0])
def test_the_temperature_is_the_best_of_all(sharpness):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 4, generator=generator)
    classes = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    losses = [nn.functional.cross_entropy(sharpness * logits / t, classes) for t in TEMPERATURES]
    assert best_temperature(sharpness * logits, classes) == TEMPERATURES[int(torch.stack(losses).argmin())]


def test_the_components_are_the_classes_shrunk_to_the_pooled_covariance():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (300,), generator=generator)
    points = torch.randn(300, 4, generator=generator) * (1 + classes[:, None]) + classes[:, None]
    mixture = GaussianMixture(4, 4)  # nothing is of the fourth class
    fit_classes(mixture, points, classes)
    x = points.double().numpy()
    own = [np.cov(x[classes == c].T, bias=True) for c in range(3)]
    n = np.array([int((classes == c).sum()) for c in range(3)])
    ridge = REG_COVAR * np.diag(x.var(0) + 1e-3 * x.var(0).mean())
    within = sum(k * each for k, each in zip(n, own, strict=True)) / 300 + ridge
    floor = REG_COVAR * within.diagonal().mean() * np.eye(4)
    for c in range(3):
        expected = (n[c] * own[c] + PRIOR * 4 * within) / (n[c] + PRIOR * 4) + floor
        np.testing.assert_allclose(mixture.covariances[c].numpy(), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(mixture.means[c].numpy(), x[classes == c].mean(0), atol=1e-4)
    np.testing.assert_allclose(mixture.weights.numpy(), [*(n + 1) / 304, 1 / 304], rtol=1e-4)
    np.testing.assert_allclose(mixture.covariances[3].numpy(), within + floor, rtol=1e-4, atol=1e-4)


def test_the_conditional_tail_is_that_of_a_large_sample():
    weights, means = torch.tensor([0.3, 0.7]), torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    covariances = torch.tensor([[[1.0, 0.8], [0.8, 1.0]], [[1.0, -0.5], [-0.5, 2.0]]])
    mixture = GaussianMixture(2, 2).set_parameters(weights, means, covariances)
    sample = mixture.sample(2_000_000, 0)
    pairs = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 2.0]])
    found = log_conditional_tail(pairs, weights.log(), means, covariances).exp()
    for (x, y), p in zip(pairs, found, strict=True):
        near = sample[(sample[:, 0] - x).abs() < 0.02, 1]
        assert abs(float((near <= y).float().mean()) - float(p)) < 0.015


def test_log_odds_are_exact_where_a_probability_is_nearly_one():
    logits = torch.tensor([[60.0, 0.0, 0.0], [0.0, 1.0, -torch.inf]])
    expected = torch.tensor([60 - np.log(2), 1.0])
    torch.testing.assert_close(log_odds(logits, torch.tensor([0, 1])), expected.float())


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Sequential(self._stage(3), nn.MaxPool2d(2), self._stage(2))
        self.head = nn.Linear(4, 3)

    @staticmethod
    def _stage(n):
        block = lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())  # noqa: E731
        return nn.Sequential(*(block() for _ in range(n)))

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def test_depths_are_the_stages_and_places_between_their_blocks():
    layers = list(FeatureExtractor(Deep(), "depths")(torch.rand(2, 1, 8, 8)).layers)
    assert layers == ["body.0.1:input", "body.0.2:input", "body.0", "body.2:input", "body"]
    assert stage_ends(layers) == ["body.0", "body"]
    assert stage_ends(["head:input"]) == ["head:input"]


def test_depths_of_a_network_without_maps_are_the_penultimate_layer():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    assert list(FeatureExtractor(net, "depths")(torch.rand(2, 4)).layers) == ["2:input"]


def test_one_pass_asks_the_layers_and_several_views_do_not():
    torch.manual_seed(0)
    for views, has_depth in ((1, True), (3, False)):
        detector = FailureDetector(Deep(), n_components=3, views=views).fit(batches(300, 1))
        assert ("depth_consistency" in detector.score.parts) == has_depth
        detector.calibrate(batches(99, 2))
        assert torch.isfinite(detector(images(9, 3)).score).all()
    assert "depth_consistency" not in FailureDetector(TinyNetWithoutMaps(), views=1).fit(rows(100)).score.parts
    chosen = make_score("combined", weights={"mean_log_probability": 1.0})
    assert list(FailureDetector(TinyNet(), score=chosen, views=1).fit(batches(300, 1)).score.parts) == [
        "mean_log_probability"
    ]


class TinyNetWithoutMaps(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def rows(n):
    return [torch.randn(n, 4, generator=torch.Generator().manual_seed(0))]


def test_a_variable_that_is_known_from_the_other_has_the_same_tail_in_every_type():
    covariances = torch.ones(1, 2, 2, dtype=torch.float64)
    pairs = torch.tensor([[0.0, -1e-3], [1.0, 1.0], [0.5, 0.4995], [0.0, 1e-4]], dtype=torch.float64)
    given = (pairs, torch.zeros(1).double(), torch.zeros(1, 2).double(), covariances)
    wide, narrow = log_conditional_tail(*given), log_conditional_tail(*(value.float() for value in given))
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-3, atol=1e-4)
