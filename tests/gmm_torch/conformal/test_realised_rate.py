import numpy as np
import pytest
import torch
from scipy import stats

from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.calibration_conditional import realised_rate, usual_share
from gmm_torch.conformal.calibrations import make_calibration


def test_it_is_the_interval_of_the_beta_distribution():
    low, high = realised_rate(10, 213)
    assert (low, high) == pytest.approx(stats.beta(10, 204).ppf([0.025, 0.975]))
    assert realised_rate(0, 5) == (0, 0)
    for wrong in ((6, 5, 0.95), (-1, 5, 0.95), (1, 5, 1.0)):
        with pytest.raises(ValueError, match="expected"):
            realised_rate(*wrong)


def test_calibration_sets_realise_a_rate_in_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    rates = []
    for _ in range(2000):
        calibration = Calibration().fit(torch.from_numpy(random.random(60)), 0.05)
        rates.append(float(calibration.threshold(0.05)))  # of uniform scores: the share below it
    low, high = calibration.realised_rate(0.05, 0.9)
    inside = np.mean((np.array(rates) > low) & (np.array(rates) < high))
    assert abs(inside - 0.9) < 4 * np.sqrt(0.09 / 2000)  # false alarm 6e-5


def test_what_is_refused_of_new_inputs_varies_with_them_too():
    assert usual_share(15, 300, 320) == pytest.approx(stats.betabinom(320, 15, 286).ppf([0.025, 0.975]) / 320)
    assert usual_share(15, 300, 10**7) == pytest.approx(realised_rate(15, 300), abs=1e-4)
    assert usual_share(0, 5, 3) == (0, 0)
    for wrong in ((6, 5, 1), (1, 5, 0), (1, 5, 1, 1.0)):
        with pytest.raises(ValueError, match="expected"):
            usual_share(*wrong)


def test_new_inputs_have_a_share_in_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    calibration, new = np.sort(random.random((4000, 60)), 1), random.random((4000, 50))
    shares = (new < calibration[:, 2:3]).mean(1)
    (low, high), (narrow_low, narrow_high) = usual_share(3, 60, 50, 0.9), realised_rate(3, 60, 0.9)
    slack = 4 * np.sqrt(0.09 / 4000)  # false alarm 3e-5 on a side
    assert np.mean((low <= shares) & (shares <= high)) > 0.9 - slack
    assert max(np.mean(shares < low), np.mean(shares > high)) < 0.05 + slack
    assert np.mean((narrow_low <= shares) & (shares <= narrow_high)) < 0.9 - slack  # of the calibration's chance alone


def test_it_speaks_of_one_threshold_alone():
    scores, predictions = torch.rand(400), torch.arange(400) % 2
    assert (
        make_calibration("mondrian", n_classes=2).fit(scores, 0.05, predictions=predictions).realised_rate(0.05) is None
    )
    conditional = make_calibration("conditional").fit(scores, 0.05)
    low, high = conditional.realised_rate(0.05)
    assert high < 0.06  # it promises at most 0.05, with confidence
    assert low < float(torch.searchsorted(scores.sort().values, conditional.threshold(0.05))) / 400 < high
