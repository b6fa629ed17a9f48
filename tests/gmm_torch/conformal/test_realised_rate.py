import numpy as np
import pytest
import torch
from scipy import stats

from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.calibration_conditional import realised_rate
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


def test_it_speaks_of_one_threshold_alone():
    scores, predictions = torch.rand(400), torch.arange(400) % 2
    assert (
        make_calibration("mondrian", n_classes=2).fit(scores, 0.05, predictions=predictions).realised_rate(0.05) is None
    )
    conditional = make_calibration("conditional").fit(scores, 0.05)
    low, high = conditional.realised_rate(0.05)
    assert high < 0.06  # it promises at most 0.05, with confidence
    assert low < float(torch.searchsorted(scores.sort().values, conditional.threshold(0.05))) / 400 < high
