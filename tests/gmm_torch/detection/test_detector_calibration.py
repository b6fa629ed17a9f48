"""Every calibration does in a detector what it does alone: verdicts, margins, files, states, export."""

import pytest
import torch
from torch import nn

from gmm_torch.detection import Calibration, FailureDetector
from gmm_torch.detection.conditional_calibration import ConditionalCalibration
from gmm_torch.detection.mondrian import MondrianCalibration
from gmm_torch.errors import FileFormatError, NotFittedError

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
    ids=["marginal", "conditional", "by_class"],
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
def test_files_and_states_bring_it_back(net, make, tmp_path):
    detector = fitted(net, make())
    detector.save(tmp_path / "detector.safetensors")
    loaded = FailureDetector.load(tmp_path / "detector.safetensors", net)
    other = FailureDetector(net, 2, calibration=make(), alpha=0.1)
    other.load_state_dict(detector.state_dict())
    for again in (loaded, other):
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


@pytest.mark.export
@every
def test_it_exports_with_a_dynamic_batch(net, make):
    class PValues(nn.Module):
        def __init__(self, detector):
            super().__init__()
            self.detector = detector

        def forward(self, x):
            return self.detector(x).p_value

    module = PValues(fitted(net, make())).eval()
    program = torch.export.export(module, (NEW[:5],), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.testing.assert_close(program.module()(NEW[:77]), module(NEW[:77]))


def test_an_unknown_calibration_in_a_file_is_refused(net, tmp_path, monkeypatch):
    detector = fitted(net, Calibration())
    monkeypatch.setattr(Calibration, "name", "exact")
    detector.save(tmp_path / "detector.safetensors")
    monkeypatch.undo()
    with pytest.raises(FileFormatError, match=r"calibration: expected one of .*; got 'exact'"):
        FailureDetector.load(tmp_path / "detector.safetensors", net)
