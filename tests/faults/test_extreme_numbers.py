"""Numbers that no input should have: refused or a clear error, never accepted, with every score and calibration."""

import copy
import functools
import warnings

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.conformal import CALIBRATIONS
from gmm_torch.conformal.weighted import WeightedScores
from gmm_torch.detector.memory import ValidRange
from gmm_torch.errors import ConvergenceWarning
from gmm_torch.features.features import Features
from gmm_torch.scores import SCORES, make_score

N_CLASSES, SIDE = 3, 6
EXTREME = (torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 3e38)
OPTIONS = {
    "mondrian": {"n_classes": N_CLASSES},
    "conditional": {"delta": 0.5},
    "label_shift": {"n_classes": N_CLASSES},
    "weighted": {"max_weight": 5},
}

# Only `weighted` reads the statistics that a score is made of; the others see its values, which two scores give all of.
WITH_EVERY_SCORE = ("marginal", "weighted")
PAIRS = [(s, c) for c in CALIBRATIONS for s in (SCORES if c in WITH_EVERY_SCORE else ("combined", "depth_consistency"))]
contract = pytest.mark.parametrize(("score", "calibration"), PAIRS)


class Planted(nn.Module):
    """A classifier whose logits or features an image can set: its first pixel is added to them where it is extreme.

    Attributes:
        where: "features" (of every layer, the logits stay) or "logits" (the features stay); None is ordinary.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.maps = nn.Identity()
        self.head = nn.Linear(6, N_CLASSES)
        self.where: str | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x[:, 0, 0, 0]
        plant = torch.where((first.abs() > 1e6) | first.isnan(), first, 0.0)[:, None]
        if self.where is not None:
            x = x.nan_to_num(0.5).clamp(0, 1)
        maps = self.conv(x).relu()
        logits = self.head(self.maps(maps).mean((2, 3)))
        if self.where == "features":  # the hooks see what runs last
            planted = self.maps(maps + plant[..., None, None])
            self.head(planted.mean((2, 3)))
        return logits + plant * torch.eye(N_CLASSES)[0] if self.where == "logits" else logits


def images(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def labelled(x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One batch with labels, which only a score that asks for them looks at."""
    return [(x, torch.arange(len(x)) % N_CLASSES)]


@functools.cache
def fitted(score: str) -> FailureDetector:
    torch.manual_seed(0)
    net = Planted().eval()
    with torch.no_grad():
        net.head.weight *= 10
        net.head.bias -= net(images(200, 9)).mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return FailureDetector(net, score=make_score(score), alpha=0.1).fit([images(300, 1)])


def calibrated(score: str, calibration: str) -> FailureDetector:
    detector = calibrated_once(score, calibration)
    detector.classifier.where = None
    return detector


@functools.cache
def calibrated_once(score: str, calibration: str) -> FailureDetector:
    detector = copy.deepcopy(fitted(score))
    detector.calibration = CALIBRATIONS[calibration](**OPTIONS.get(calibration, {}))
    if isinstance(detector.calibration, WeightedScores):
        detector.adapt([images(300, 7)], by_prediction(detector, images(300, 8)))
        return detector.calibrate(by_prediction(detector, images(400, 2)))
    return detector.calibrate(labelled(images(400, 2)))


def by_prediction(detector: FailureDetector, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One batch with labels that the classifier gets right."""
    return [(x, detector.classifier(x).argmax(1).detach())]


# Every score and every calibration with all three; `weighted`, with as many scores as the first, with each in turn.
PLACES = (None, "features", "logits")


@pytest.mark.parametrize(
    ("score", "calibration", "where"),
    [
        (score, calibration, where)
        for number, (score, calibration) in enumerate(PAIRS)
        for place, where in enumerate(PLACES)
        if calibration != "weighted" or number % len(PLACES) == place
    ],
)
def test_what_is_not_of_this_world_is_refused_and_its_neighbours_are_not_touched(score, calibration, where):
    detector = calibrated(score, calibration)
    detector.classifier.where = where
    ordinary = images(20, 3)
    planted = ordinary[: len(EXTREME)].clone()
    planted[:, 0, 0, 0] = torch.tensor(EXTREME)
    alone, verdict = detector(ordinary), detector(torch.cat([ordinary, planted]))
    assert not verdict.accept[20:].any()
    assert bool(((verdict.p_value > 0) & (verdict.p_value <= 0.1))[20:].all())
    assert not verdict.score.isnan().any()
    assert torch.equal(verdict.accept[:20], alone.accept)
    torch.testing.assert_close(verdict.p_value[:20], alone.p_value, atol=0.01, rtol=0)
    assert alone.accept.any()
    margin = detector.margin(torch.cat([ordinary, planted]))
    assert torch.equal(margin >= 0, verdict.accept)


@contract
def test_a_batch_may_hold_one_image_or_none(score, calibration):
    detector = calibrated(score, calibration)
    x = images(5, 4)
    whole = detector(x)
    one = detector(x[:1])
    assert one.accept.shape == (1,)
    torch.testing.assert_close(one.score, whole.score[:1], rtol=1e-4, atol=1e-4)
    none = detector(x[:0])
    assert none.accept.shape == none.p_value.shape == none.score.shape == (0,)
    assert none.accept.dtype == torch.bool


@pytest.mark.parametrize("score", SCORES)
def test_extreme_inputs_have_an_explanation(score):
    detector = calibrated(score, "marginal")
    x = images(len(EXTREME), 3)
    x[:, 0, 0, 0] = torch.tensor(EXTREME)
    explanation = detector.explain(x)
    assert all(str(explanation[i]).startswith("Refused") for i in range(len(x)))


@pytest.mark.parametrize("value", EXTREME)
@pytest.mark.parametrize("score", SCORES)
def test_extreme_calibration_inputs_are_counted(score, value):
    detector = calibrated(score, "marginal")
    x = images(300, 5)
    x[7, 0, 2, 2] = value
    with pytest.raises(ValueError, match="1 of "):
        copy.deepcopy(detector).calibrate(labelled(x))


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("score", SCORES)
def test_fitting_to_one_image_over_and_over_refuses_others_or_says_why(score, value):
    torch.manual_seed(0)
    detector = FailureDetector(Planted().eval(), score=make_score(score), alpha=0.1)
    constant = torch.full((100, 1, SIDE, SIDE), value)
    try:
        detector.fit([constant]).calibrate(labelled(constant))
    except ValueError as error:
        assert len(str(error)) > 20  # noqa: PT017
        return
    verdict = detector(torch.cat([constant[:5], images(20, 3) * 1e30]))
    assert verdict.accept[:5].all()
    assert not verdict.accept[5:].any()


def test_the_domain_has_no_overflow_and_no_floor_above_zero():
    def of(*numbers: float) -> Features:
        value = torch.tensor(numbers)[:, None, None]
        return Features(value, {"a": torch.zeros_like(value)})

    valid_range = ValidRange().fit(of(1e38, -3.0))
    assert valid_range(of(-1e38, 0.0, torch.inf, torch.nan)).tolist() == [True, True, False, False]
    valid_range.fit(of(0.0))
    assert valid_range(of(999.0, 1001.0)).tolist() == [True, False]
