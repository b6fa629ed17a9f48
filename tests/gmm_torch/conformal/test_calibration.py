"""The contract of every calibration."""

import re
import warnings

import pytest
import torch

from gmm_torch.conformal import CALIBRATIONS, Calibration, make_calibration
from gmm_torch.conformal.calibration import Unlabelled
from gmm_torch.errors import NotFittedError, WeightsWarning

OPTIONS = {"mondrian": {"n_classes": 3}, "label_shift": {"n_classes": 3}}
every_calibration = pytest.mark.parametrize("name", sorted(CALIBRATIONS))


def sample(n, seed, shift=0.0):
    """Statistics and predictions, and labels that differ from one prediction in five."""
    generator = torch.Generator().manual_seed(seed)
    statistics = torch.randn(n, 2, generator=generator) + shift
    predictions = torch.randint(3, (n,), generator=generator)
    labels = torch.where(torch.rand(n, generator=generator) < 0.2, (predictions + 1) % 3, predictions)
    return Unlabelled(statistics, predictions), labels


X, _ = sample(100, 9)
SCORE = torch.cat([X.statistics[:97, 0], torch.tensor([torch.nan, torch.inf, -torch.inf])])


def made(name, n=400, alpha=0.1, labels=True):
    """A calibration with scores; labels, if any, are given wherever they may be given."""
    calibration = make_calibration(name, **OPTIONS.get(name, {}))
    (known, classes), (new, _), (held_out, held_out_classes) = (
        sample(*each) for each in ((1000, 0), (1000, 1, 0.2), (n, 2))
    )
    with warnings.catch_warnings(action="ignore", category=WeightsWarning):
        if calibration.needs_adapt:
            calibration.adapt(known, new, labels=classes if labels else None)
        log_weight = calibration.log_weights(held_out, held_out_classes if labels else None)
        return calibration.fit(
            held_out.statistics[:, 0], alpha, predictions=held_out.predictions, log_weight=log_weight
        )


def given(calibration, x=X):
    return {"predictions": x.predictions, "log_weight": calibration.log_weights(x)}


@every_calibration
def test_p_values_thresholds_and_decisions_agree_and_a_state_comes_back(name):
    calibration = made(name)
    p = calibration.p_value(SCORE, **given(calibration))
    assert bool(((p > 0) & (p <= 1)).all())
    for alpha in (0.1, 0.3):
        accepts = calibration.accepts(SCORE, **given(calibration), alpha=alpha)
        threshold = calibration.threshold(alpha, **given(calibration))
        assert threshold.shape == SCORE.shape
        assert torch.equal(accepts, p > alpha)
        assert torch.equal(accepts, torch.nan_to_num(SCORE, nan=-torch.inf, posinf=torch.inf) >= threshold)
    loaded = calibration.fresh()
    loaded.load_state_dict(calibration.state_dict())
    assert torch.equal(loaded.p_value(SCORE, **given(loaded)), p)
    assert repr(loaded.target(0.1)) == repr(calibration)
    assert len(loaded) == 400


@every_calibration
def test_it_is_made_from_its_name_and_options(name):
    calibration = made(name)
    for other in (calibration.fresh(), make_calibration(name, **calibration.options())):
        assert type(other) is type(calibration)
        assert other.options() == calibration.options()
        assert len(other) == 0
        assert "promises nothing" in other.describe()
        with pytest.raises(NotFittedError):
            other.p_value(SCORE, log_weight=torch.zeros(100))
    with pytest.raises(ValueError, match="calibration: expected"):
        make_calibration("exact")


@every_calibration
def test_only_calibrations_with_weights_adapt(name):
    calibration = make_calibration(name, **OPTIONS.get(name, {}))
    (known, labels), (new, _) = sample(300, 0), sample(300, 1)
    if calibration.needs_adapt:
        with pytest.raises(NotFittedError, match="adapt"):
            calibration.log_weights(known, labels)
        assert made(name).adapt(known, new, labels=labels).describe().endswith("no scores yet, promises nothing")
    else:
        assert calibration.log_weights(known, labels) is None
        with pytest.raises(TypeError, match="LabelShiftCalibration or WeightedCalibration; got"):
            calibration.adapt(known, new)


@pytest.mark.parametrize("name", sorted(name for name, cls in CALIBRATIONS.items() if not cls.needs_labels))
def test_labels_change_nothing_where_they_are_not_needed(name):
    one, other = made(name, labels=True), made(name, labels=False)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    assert torch.equal(one.p_value(SCORE, **given(one)), other.p_value(SCORE, **given(other)))


@every_calibration
@pytest.mark.parametrize("damage", [lambda s: s.flip(0), lambda s: s.index_fill(0, torch.tensor(5), torch.nan)])
def test_a_damaged_state_is_refused(name, damage):
    calibration = made(name)
    state = dict(calibration.state_dict())
    state["scores"] = damage(state["scores"])
    with pytest.raises(ValueError, match="the state is damaged"):
        calibration.fresh().load_state_dict(state)


@every_calibration
def test_too_few_inputs_for_alpha_are_refused_with_the_number_needed(name):
    with pytest.raises(ValueError, match=r"alpha=0\.05 .*needs at least \d+ inputs; got 10"):
        made(name, n=10, alpha=0.05)
    calibration = made(name)
    with pytest.raises(ValueError, match=r"alpha=1e-05"):
        calibration.target(1e-5)
    with pytest.raises(ValueError, match="finite"):
        calibration.fit(
            torch.tensor([torch.nan] * 100), 0.1, predictions=X.predictions, log_weight=torch.zeros(100).double()
        )


def test_the_grid_is_that_of_the_p_values():
    plain = made("marginal")
    places = plain.grid * plain.p_value(SCORE)
    torch.testing.assert_close(places, places.round())
    assert [made(name).grid for name in sorted(CALIBRATIONS) if name != "marginal"] == [None] * 4


def test_realised_rates_belong_to_one_threshold():
    assert [made(name).realised_rate(0.1) for name in ("mondrian", "weighted", "label_shift")] == [None] * 3
    low, high = made("conditional").realised_rate(0.1)
    assert low < high < 0.12  # it promises at most 0.1, with confidence
    assert Calibration().fit(torch.rand(400), 0.1).realised_rate(0.1)[1] > 0.12


def test_its_guarantee_is_said():
    for name in ("marginal", "conditional", "mondrian"):
        words = made(name).describe()
        assert re.match(
            "scores of 400 calibration inputs; at most a share alpha of inputs like these is refused", words
        )
    assert "for at least 90 of 100 calibration sets" in made("conditional").describe()
