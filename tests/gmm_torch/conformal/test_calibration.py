import re

import pytest
import torch

from gmm_torch.conformal.calibration_conditional import BOUNDS
from gmm_torch.conformal.calibrations import make_calibration
from gmm_torch.conformal.conditional_calibration import ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.conformal.p_values import conformal_p_value, smoothed_p_value
from gmm_torch.detector import Calibration
from gmm_torch.errors import NotFittedError

SCORES = torch.randn(200, generator=torch.Generator().manual_seed(0))
X = torch.cat([torch.linspace(-4, 4, 100), torch.tensor([torch.nan, torch.inf, -torch.inf])])


@pytest.mark.parametrize(
    "make", [Calibration, ConditionalCalibration, lambda: MondrianCalibration(3)], ids=["plain", "conditional", "class"]
)
def test_all_calibrations_have_the_same_verbs_and_their_state_comes_back(make):
    classes = torch.arange(200) % 3
    saved = make().fit(SCORES, 0.05, predictions=classes)
    loaded = make()
    loaded.load_state_dict(saved.state_dict())
    y = torch.arange(len(X)) % 3
    p = saved.p_value(X, y)
    torch.testing.assert_close(loaded.p_value(X, y), p)
    threshold = saved.threshold(0.05)
    torch.testing.assert_close(loaded.threshold(0.05), threshold)
    lowest = threshold[y] if threshold.dim() else threshold
    assert torch.equal(p > 0.05, torch.nan_to_num(X, nan=-torch.inf) >= lowest)
    assert len(loaded) == 200


@pytest.mark.parametrize(
    "calibration",
    [Calibration(), ConditionalCalibration(0.2, "simes"), MondrianCalibration(3, min_size=30)],
    ids=["marginal", "conditional", "mondrian"],
)
def test_each_is_made_anew_from_its_name_and_options(calibration):
    classes = torch.arange(200) % 3
    first = calibration.fit(SCORES, 0.1, predictions=classes)
    fresh, made = first.fresh(), make_calibration(first.name, **first.options())
    for other in (fresh, made):
        assert type(other) is type(first)
        assert other.options() == first.options()
        assert len(other) == 0
        other.fit(SCORES, 0.1, predictions=classes)
        torch.testing.assert_close(
            other.p_value(X, torch.zeros(len(X)).long()), first.p_value(X, torch.zeros(len(X)).long())
        )
    with pytest.raises(
        ValueError,
        match="calibration: expected one of conditional, label_shift, marginal, mondrian, weighted; got 'exact'",
    ):
        make_calibration("exact")


@pytest.mark.parametrize("damage", [lambda s: s.flip(0), lambda s: s.index_fill(0, torch.tensor(5), torch.nan)])
@pytest.mark.parametrize("make", [Calibration, ConditionalCalibration, lambda: MondrianCalibration(3)])
def test_a_damaged_state_is_refused(make, damage):
    state = dict(make().fit(SCORES, 0.05, predictions=torch.arange(200) % 3).state_dict())
    state["scores"] = damage(state["scores"])
    with pytest.raises(ValueError, match="the state is damaged"):
        make().load_state_dict(state)


def test_draws_give_the_smoothed_p_value():
    u = torch.rand(len(X), generator=torch.Generator().manual_seed(1))
    calibration = Calibration().fit(SCORES.round(), 0.05)
    ordered = SCORES.round().sort().values
    torch.testing.assert_close(calibration.p_value(X, uniform=u), smoothed_p_value(X, ordered, u))


@pytest.mark.parametrize("method", BOUNDS)
def test_conditional_p_values_are_the_bounds_of_the_conformal_ones(method):
    calibration = ConditionalCalibration(0.2, method).fit(SCORES, 0.1)
    plain = conformal_p_value(X, SCORES.sort().values)
    torch.testing.assert_close(calibration.p_value(X), BOUNDS[method](200, 0.2)[(201 * plain).round().long() - 1])
    assert bool((calibration.p_value(X) >= plain).all())


def test_too_few_for_a_conditional_guarantee_are_refused_with_how_many_it_takes():
    with pytest.raises(ValueError, match=r"0\.05 with delta=0\.1, method='simes' needs at least 90 inputs; got 89"):
        ConditionalCalibration(0.1, "simes").fit(SCORES[:89], 0.05)
    assert ConditionalCalibration(0.1, "simes").fit(SCORES[:90], 0.05).p_value(torch.tensor([-9.0])) <= 0.05


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="method: expected one of simes, dkw, berk_jones; got 'exact'"):
        ConditionalCalibration(0.1, "exact")
    with pytest.raises(ValueError, match="delta: expected"):
        ConditionalCalibration(1.0)
    with pytest.raises(NotFittedError):
        ConditionalCalibration().p_value(X)
    with pytest.raises(ValueError, match="uniform: expected None"):
        ConditionalCalibration().fit(SCORES, 0.1).p_value(X, uniform=torch.ones(len(X)))
    with pytest.raises(ValueError, match="2 of 3 are not"):
        Calibration().fit(torch.tensor([torch.nan, torch.inf, 0.0]), 0.5)


def test_the_grid_is_that_of_the_p_values():
    plain = Calibration().fit(SCORES, 0.05)
    places = plain.grid * plain.p_value(X)
    torch.testing.assert_close(places, places.round())
    classes = torch.arange(200) % 3
    for other in (ConditionalCalibration(), MondrianCalibration(3)):
        assert other.fit(SCORES, 0.05, predictions=classes).grid is None


@pytest.mark.parametrize(
    ("calibration", "promise"),
    [
        (Calibration(), "of inputs like .* at most a share alpha is refused, on average over calibration sets$"),
        (ConditionalCalibration(0.2), "at most a share alpha is refused, for at least 80 of 100 calibration sets$"),
        (
            MondrianCalibration(3),
            "calibration sets, in every predicted class that is not pooled; 3 classes, each by",
        ),
    ],
    ids=["marginal", "conditional", "mondrian"],
)
def test_what_a_calibration_promises_is_said_in_words(calibration, promise):
    assert calibration.describe() == "no scores yet, promises nothing"
    calibration.fit(SCORES, 0.05, predictions=torch.arange(200) % 3)
    assert re.search(f"^scores of 200 calibration inputs; .*{promise}", calibration.describe())
