"""Every calibration does in a detector what it does alone: verdicts, margins, files, states, export."""

import warnings

import pytest
import torch
from torch import nn

from gmm_torch.conformal.conditional import ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detector import Calibration, FailureDetector
from gmm_torch.errors import CalibrationWarning, FileFormatError, NotFittedError
from gmm_torch.features.normalized import with_normalization

X = torch.rand(1200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FIT, CALIBRATE, NEW = X[:400], X[400:1000], X[1000:]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def fitted(net, calibration):
    detector = FailureDetector(net, 2, calibration=calibration, alpha=0.1)
    return detector.fit([FIT]).calibrate([CALIBRATE])


every = pytest.mark.parametrize(
    "make",
    [Calibration, lambda: ConditionalCalibration(0.2, "simes"), lambda: MondrianCalibration(4, min_size=30)],
    ids=["marginal", "conditional", "mondrian"],
)


@every
def test_the_p_value_is_the_calibrations_and_the_margin_agrees(net, make):
    detector = fitted(net, make())
    with torch.no_grad():
        verdict = detector(NEW)
        expected = detector.calibration.p_value(verdict.score, verdict.prediction)
        torch.testing.assert_close(verdict.p_value, expected)
        assert torch.equal(verdict.accept, detector.margin(NEW) >= 0)
    assert isinstance(detector.calibration, type(make()))


@every
def test_files_bring_it_back(net, make, tmp_path):
    detector = fitted(net, make())
    detector.save(tmp_path / "detector.safetensors")
    again = FailureDetector.load(tmp_path / "detector.safetensors", net)
    assert again.calibration.options() == detector.calibration.options()
    assert torch.equal(again(NEW).p_value, detector(NEW).p_value)


@every
def test_fitting_again_forgets_its_scores_and_keeps_its_options(net, make):
    detector = fitted(net, make())
    options = detector.calibration.options()
    detector.fit([FIT])
    assert detector.calibration.options() == options
    with pytest.raises(NotFittedError):
        detector(NEW)


SCARCE = r"calibration set: alpha=0\.0001 .*needs? at least \d+ inputs; got [46]00"


@every
def test_an_alpha_that_nothing_could_be_refused_at_is_not_taken(net, make, tmp_path):
    detector = fitted(net, make())
    with pytest.raises(ValueError, match=SCARCE):
        detector.alpha = 0.0001
    with pytest.raises(ValueError, match="alpha: expected a number between 0 and 1"):
        detector.alpha = 1
    assert detector.alpha == 0.1
    detector.alpha = 0.12  # what was taken can be saved, and what was saved can be loaded
    detector.save(tmp_path / "detector.safetensors")
    assert FailureDetector.load(tmp_path / "detector.safetensors", net).alpha == 0.12
    eager = FailureDetector(net, 2, calibration=make(), alpha=0.0001)
    with pytest.raises(ValueError, match=SCARCE):
        eager.fit([FIT]).calibrate([CALIBRATE])


@every
def test_to_change_alpha_is_to_calibrate_at_it(net, make):
    scores, classes = torch.randn(600, generator=torch.Generator().manual_seed(2)), torch.arange(600) % 7 // 2
    for alpha in (0.3, 0.05):
        other = make().fit(scores, 0.1, predictions=classes).target(alpha)
        expected = make().fit(scores, alpha, predictions=classes)
        x, y = torch.linspace(-4, 4, 80), torch.arange(80) % 4
        assert torch.equal(other.p_value(x, y), expected.p_value(x, y))
        assert torch.equal(other.threshold(alpha), expected.threshold(alpha))


def test_an_unknown_calibration_in_a_file_is_refused(net, tmp_path, monkeypatch):
    detector = fitted(net, Calibration())
    monkeypatch.setattr(Calibration, "name", "exact")
    detector.save(tmp_path / "detector.safetensors")
    monkeypatch.undo()
    with pytest.raises(FileFormatError, match=r"calibration: expected one of .*; got 'exact'"):
        FailureDetector.load(tmp_path / "detector.safetensors", net)


def test_calibration_inputs_of_which_some_were_fitted_to_are_doubted(net):
    detector = FailureDetector(net, 2).fit([FIT])
    with pytest.warns(CalibrationWarning, match="got 600, and 30 are equal to some"):
        detector.calibrate([CALIBRATE[:570], FIT[:30]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        detector.calibrate([CALIBRATE])
        detector.calibrate([CALIBRATE[:590], FIT[:10]])  # rows of a few columns may be equal by chance


def test_a_detector_from_a_file_knows_what_it_was_fitted_to(net, tmp_path):
    FailureDetector(net, 2).fit([FIT]).calibrate([CALIBRATE]).save(tmp_path / "detector.safetensors")
    loaded = FailureDetector.load(tmp_path / "detector.safetensors", net)
    with pytest.raises(ValueError, match="expected others than the detector was fitted to"):
        loaded.calibrate([FIT[::2]])
    with pytest.warns(CalibrationWarning, match="got 600, and 30 are equal to some"):
        loaded.calibrate([CALIBRATE[:570], FIT[:30]])


def test_images_of_other_channels_are_refused():
    torch.manual_seed(0)
    colour = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    classifier = with_normalization(colour, [0.5] * 3, [0.5] * 3)
    x = X[:, :, :6, :6].expand(-1, 3, -1, -1)
    detector = FailureDetector(classifier, 2, views=1).fit([x[:400]]).calibrate([x[400:1000]])
    with pytest.raises(ValueError, match=r"3 channels.*got \(5, 1, 6, 6\): give x.expand\(-1, 3, -1, -1\)"):
        detector(X[:5, :, :6, :6])
    assert len(detector(X[:5, :, :8, :8].expand(-1, 3, -1, -1)).accept) == 5  # it takes any height and width


def test_another_normalisation_is_told_where_a_file_knows_it(net, tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    classifier = with_normalization(net, [0.5], [0.25])
    detector = FailureDetector(classifier, 2).fit([FIT]).calibrate([CALIBRATE])
    detector.preprocessing = {"mean": [0.5], "std": [0.25]}
    detector.save(tmp_path / "detector.safetensors")
    with pytest.raises(ValueError, match=r"its mean is \[0\.4\], that of the fit \[0\.5\]"):
        FailureDetector.load(tmp_path / "detector.safetensors", with_normalization(net, [0.4], [0.25]))


def test_one_image_without_its_batch_is_told_what_to_give(net):
    detector = FailureDetector(net, 2).fit([FIT]).calibrate([CALIBRATE])
    with pytest.raises(ValueError, match=r"give x\[None\] if this is one image"):
        detector(NEW[0])
