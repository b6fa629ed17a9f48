"""A detector that was fitted elsewhere judges on a card without waiting for it, whatever its calibration."""

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.conformal.calibration import Calibration
from gmm_torch.conformal.conditional_calibration import ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detection.files import known_weights
from tests.cuda.card import CARD, card


@pytest.fixture
def outputs():
    """A small classifier, images to fit to and images to calibrate on."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.rand(600, 1, 8, 8)
    return classifier, x[:300].split(100), x[300:].split(100)


@pytest.mark.filterwarnings("ignore::gmm_torch.errors.ComponentsWarning")
@pytest.mark.parametrize("kind", [Calibration, lambda: MondrianCalibration(3), ConditionalCalibration])
def test_verdicts_and_margins_never_wait(monkeypatch, outputs, kind):
    classifier, fitting, calibration = outputs
    detector = FailureDetector(classifier, n_components=2, views=1, calibration=kind())
    detector.fit(fitting).calibrate(calibration)
    expected = detector.calibration.threshold(detector.alpha)
    assert bool(torch.isin(expected, detector.calibration.scores).all())
    with card(monkeypatch, 100) as watch:
        there = {name: torch.empty(value.shape, dtype=value.dtype, device=CARD) for name, value in _tensors(detector)}
        _place(detector, there)
        known = detector._weights_known
        known._mark = known_weights._mark(detector.classifier)  # looked at since they came here
        watch.begin({})
        x = torch.rand(5, 1, 8, 8, device=CARD)
        verdict = detector(x)
        assert {verdict.score.device, verdict.p_value.device, verdict.accept.device} == {CARD}
        assert detector.margin(x).device == CARD


def _tensors(module):
    return [*module.named_parameters(), *module.named_buffers()]


def _place(module, there):
    """The module's tensors become these, by their names."""
    for name, value in there.items():
        owner = module.get_submodule(name.rpartition(".")[0])
        place = name.rpartition(".")[2]
        if isinstance(owner, nn.ParameterDict):
            owner[place] = nn.Parameter(value, requires_grad=False)
        elif place in owner._parameters:
            owner._parameters[place] = nn.Parameter(value, requires_grad=False)
        else:
            owner._buffers[place] = value
