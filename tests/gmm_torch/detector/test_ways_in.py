"""Inputs and outputs that are already there are two ways in: both check the same things, with the same words."""

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector, NotFittedError
from gmm_torch.features.features import Features
from gmm_torch.scores import make_score
from tests.gmm_torch.conftest import batches, images

WAYS = pytest.mark.parametrize("way", ["loader", "outputs"])


class Rows(nn.Module):
    """Gives its inputs as features and as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = nn.Parameter(torch.eye(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def outputs_of(x: torch.Tensor, labels: torch.Tensor | None = None) -> Features:
    return Features(x[:, None], {"head:input": x[:, None]}, labels)


def detector(score: str = "log_likelihood", **options) -> FailureDetector:
    small = {"n_components": 1} if "likelihood" in score else {}
    return FailureDetector(Rows(), score=make_score(score, **small, **options), alpha=0.1)


def fit(found: FailureDetector, x: torch.Tensor, way: str) -> FailureDetector:
    return found.fit(x.split(20)) if way == "loader" else found.fit(outputs_of(x))


def calibrate(found: FailureDetector, x: torch.Tensor, way: str, labels: torch.Tensor | None = None) -> FailureDetector:
    if way == "outputs":
        return found.calibrate(outputs_of(x, labels))
    return found.calibrate(x.split(20) if labels is None else zip(x.split(20), labels.split(20), strict=True))


@WAYS
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite(way, value):
    bad = rows(60, 1)
    bad[7, 1] = value
    words = "features of layer 'head:input': expected finite numbers; 1 of 60 inputs give NaN or infinity"
    with pytest.raises(ValueError, match=words):
        fit(detector(), bad, way)
    found = fit(detector(), rows(100, 0), way)
    with pytest.raises(ValueError, match=words):
        calibrate(found, bad, way)
    calibrate(found, rows(60, 1), way)
    assert found(bad).accept.sum() > 40
    assert not found(bad).accept[7]
    assert found(bad).score[7] == -torch.inf


@WAYS
def test_logits_that_are_not_finite(way):
    class Overflowing(Rows):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.where(x[:, :1] > 3, torch.inf, 0.0)

    found = FailureDetector(Overflowing(), score=make_score("log_likelihood", n_components=1))
    x = rows(60, 1)
    x[7, 0] = 4
    with pytest.raises(ValueError, match="logits: expected finite numbers; 1 of 60 inputs"):
        found.fit([x]) if way == "loader" else found.fit(found.extractor(x))


@WAYS
def test_numbers_far_beyond_those_of_the_fit(way):
    x = rows(60, 1)
    x[7] = 1e6
    with pytest.raises(ValueError, match="calibration inputs: expected numbers like those of the fitting inputs; 1 of"):
        calibrate(fit(detector(), rows(100, 0), way), x, way)


@WAYS
def test_too_few_inputs(way):
    with pytest.raises(ValueError, match="fitting inputs: expected at least 2; got 1"):
        fit(detector("right_wrong_ratio"), rows(1, 0), way)
    with pytest.raises(ValueError, match=r"calibration set: alpha=0.1 needs at least 9 inputs; got 8"):
        calibrate(fit(detector(), rows(100, 0), way), rows(8, 1), way)


@WAYS
def test_a_calibration_before_a_fit(way):
    with pytest.raises(NotFittedError, match="call fit"):
        calibrate(detector(), rows(60, 1), way)


@WAYS
def test_labels_that_a_score_learns_from(way):
    words = "labels: expected one for each input; got inputs without"
    with pytest.raises(ValueError, match=words):
        fit(detector("mahalanobis", labels=True), rows(60, 0), way)
    found = fit(detector("right_wrong_ratio"), rows(60, 0), way)
    with pytest.raises(ValueError, match=words):
        calibrate(found, rows(60, 1), way)
    with pytest.raises(ValueError, match="labels: expected classes 0 to 2; got 0 to 3"):
        calibrate(found, rows(60, 1), way, torch.arange(60) % 4)


def test_outputs_of_another_kind_are_told_from_those_of_the_fit():
    found = fit(detector(), rows(100, 0), "outputs")
    other = outputs_of(rows(60, 1))
    for wrong in (
        other._replace(layers={"head": other.layers["head:input"]}),
        other._replace(layers={"head:input": rows(60, 1)[:, None, :2]}),
        other._replace(logits=rows(60, 1)[:, None, :2]),
        other._replace(logits=rows(60, 1)[:, None].expand(-1, 2, -1)),
    ):
        with pytest.raises(ValueError, match=r"outputs: expected layers \{'head:input': 3\}, 1 views and 3 classes"):
            found.calibrate(wrong)


def test_one_pass_serves_calibration_and_report(net):
    """Chunks of `reduce` are all that either of them needs."""
    found = FailureDetector(net, n_components=2).fit(batches(90, 0))
    labels = torch.arange(60) % 3
    reduced = found.statistics(found.features([images(60, 1)])._replace(labels=labels))
    report = found.calibrate(reduced).component_report(reduced)
    assert report == found.component_report([(images(60, 1), labels)])
    with pytest.raises(ValueError, match=r"labels: expected \(60,\); got none"):
        found.component_report(reduced._replace(labels=None))
