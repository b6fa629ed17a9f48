"""Does a p-value mean what it says? False-alarm rate of these tests, stated: 1e-4 each, with fixed seeds."""

import warnings

import pytest
import torch
from scipy import stats
from torch import nn

from gmm_torch.detector import Calibration, FailureDetector
from gmm_torch.errors import LabelsWarning
from gmm_torch.scores import make_score

N_SPLITS, N_CALIBRATION, N_TEST = 200, 99, 50


def p_values(discrete: bool) -> torch.Tensor:
    """(N_SPLITS, N_TEST) p-values of clean points, each row with a calibration set of its own."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(N_SPLITS):
        scores = torch.randn(N_CALIBRATION + N_TEST, generator=generator)
        scores = scores.mul(2).round() if discrete else scores
        calibration = Calibration().fit(scores[:N_CALIBRATION], alpha=0.05)
        rows.append(calibration.p_value(scores[N_CALIBRATION:]))
    return torch.stack(rows)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.2])
def test_clean_inputs_are_refused_at_most_at_the_rate_alpha(alpha, discrete):
    # One p-value a split: then the alarms are independent, and their number is at most binomial(N_SPLITS, alpha).
    alarms = int((p_values(discrete)[:, 0] <= alpha).sum())
    assert stats.binomtest(alarms, N_SPLITS, alpha, alternative="greater").pvalue > 1e-4


def test_p_values_of_continuous_scores_are_uniform_on_the_grid():
    rank = (p_values(discrete=False)[:, 0] * (N_CALIBRATION + 1)).round().long()
    assert rank.min() >= 1
    assert rank.max() <= N_CALIBRATION + 1
    counts = torch.bincount((rank - 1) // 10, minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_the_check_would_notice_p_values_that_are_too_small():
    alarms = int((p_values(discrete=False)[:, 0] / 2 <= 0.1).sum())
    assert stats.binomtest(alarms, N_SPLITS, 0.1, alternative="greater").pvalue < 1e-4


def test_random_splits_of_one_pool_of_images_are_valid_too():
    """What becomes reference depends on the whole calibration set: no image is reference in every split.

    60 splits of 200 images, 70 to calibrate and 130 to test. The rate of a split has, given valid p-values, a mean of
    at most a; the mean over splits exceeds a by 3.5 of its standard errors with a probability below 5e-4, so for three
    levels and two pools the false-alarm rate is below 3e-3, with fixed seeds.
    """
    for pool in range(2):
        generator = torch.Generator().manual_seed(pool)
        torch.manual_seed(pool)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
        detector = FailureDetector(net, n_components=2, views=1, alpha=0.1)
        detector.fit(torch.rand(300, 1, 4, 4, generator=generator).split(100))
        outputs = detector.features([torch.rand(200, 1, 4, 4, generator=generator)])
        rates = []
        for _ in range(60):
            order = torch.randperm(200, generator=generator)
            detector.calibrate(outputs.rows(order[:70]))
            p = detector(outputs.rows(order[70:])).p_value
            rates.append([float((p <= a).double().mean()) for a in (0.1, 0.2, 0.5)])
        found = torch.tensor(rates, dtype=torch.float64)
        excess = found.mean(0) - torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
        assert (excess <= 3.5 * found.std(0) / len(found) ** 0.5).all()


@pytest.mark.parametrize("name", ["right_wrong_ratio", "labelled_combined"])
def test_p_values_are_valid_where_the_score_has_learned_from_labels_of_the_calibration_set(name):
    """200 calibration sets of 60 inputs, each with a test input of its own, all drawn afresh.

    So the alarms are independent, and their number is at most binomial(200, a). A fifth of the labels are wrong: about
    four of the 20 inputs that are learned from. For three levels the false-alarm rate is below 3e-4.
    """
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    detector = FailureDetector(net, score=make_score(name), views=1, alpha=0.1)
    detector.fit(torch.rand(300, 1, 4, 4, generator=generator).split(100))
    x = torch.rand(200 * 61, 1, 4, 4, generator=generator)
    outputs = detector.features([(x, torch.zeros(len(x), dtype=torch.long))])
    is_wrong = torch.rand(len(x), generator=generator) < 0.2
    outputs = outputs._replace(labels=(outputs.own_logits.argmax(1) + is_wrong) % 4)
    p = []
    for i in range(200):
        rows = slice(61 * i, 61 * i + 60)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LabelsWarning)  # now and then there is no wrong prediction at all
            detector.calibrate(outputs.rows(rows))
        p.append(detector(outputs.rows(slice(61 * i + 60, 61 * i + 61))).p_value)
    p_value = torch.cat(p)
    for a in (0.1, 0.2, 0.5):
        alarms = int((p_value <= a).sum())
        assert stats.binomtest(alarms, len(p_value), a, alternative="greater").pvalue > 1e-4
    assert stats.binomtest(int((p_value <= 0.5).sum()), len(p_value), 0.4, alternative="less").pvalue > 1e-4
