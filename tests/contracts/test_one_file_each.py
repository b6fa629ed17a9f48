"""A score, a part of the default, a calibration: one new file each, from a fit to a stored detector."""

import importlib.util
import sys
from textwrap import dedent

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.conformal import CALIBRATIONS, make_calibration
from gmm_torch.scores import SCORES, make_score

SCORE = """
from gmm_torch.scores.base import Score


class LargestLogit(Score):
    name = "largest_logit"

    def forward(self, outputs):
        return outputs.own_logits.amax(-1)
"""
PART = SCORE.replace('name = "largest_logit"', 'name = "largest_logit"\n    default_weights = (1 / 2, 1 / 4)')
CALIBRATION = """
from gmm_torch.conformal.calibration import Calibration


class Cautious(Calibration):
    name = "cautious"

    def __init__(self, factor=2):
        super().__init__()
        self.factor = factor

    def options(self):
        return {"factor": self.factor}

    def accepts(self, score, predictions=None, *, log_weight=None, alpha):
        return super().accepts(score, alpha=self.factor * alpha)
"""


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Imports a file that is added to a folder; gives how many files that took."""
    known = [(registry, dict(registry)) for registry in (SCORES, CALIBRATIONS)]

    def added(text: str) -> int:
        path = tmp_path / "added_here.py"
        path.write_text(dedent(text))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return len(list(tmp_path.glob("*.py")))

    yield added
    for registry, before in known:
        registry.clear()
        registry.update(before)


def detector_of(tmp_path, **options):
    """Fitted, calibrated, and stored; it comes back as it was."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    x = torch.rand(300, 1, 6, 6)
    detector = FailureDetector(classifier, **options).fit(x[:150].split(50)).calibrate(x[150:].split(50))
    detector.save(tmp_path / "detector.safetensors")
    again = FailureDetector.load(tmp_path / "detector.safetensors", classifier)
    for found, expected in zip(again(2 * x[:9]), detector(2 * x[:9]), strict=True):
        assert torch.equal(found, expected)
    return again, classifier, x


def test_a_score(add, tmp_path):
    assert add(SCORE) == 1
    detector, classifier, x = detector_of(tmp_path, score=make_score("largest_logit"))
    assert torch.equal(detector(x[:9]).score, classifier(x[:9]).amax(1).detach())


@pytest.mark.parametrize("views", [1, 3])
def test_a_part_of_the_default(add, tmp_path, views):
    assert "largest_logit" not in detector_of(tmp_path, n_components=2, views=views)[0].score.weights
    assert add(PART) == 1
    detector, _, x = detector_of(tmp_path, n_components=2, views=views)
    assert detector.score.weights["largest_logit"] == (1 / 4 if views == 1 else 1 / 2)
    assert "largest_logit" in detector.explain(x[:2])[0].part_p_values


def test_a_calibration(add, tmp_path):
    assert add(CALIBRATION) == 1
    calibration = make_calibration("cautious", factor=4)
    detector, _, x = detector_of(tmp_path, score=make_score("max_softmax"), calibration=calibration)
    assert detector.calibration.factor == 4
    verdict = detector(x)
    assert torch.equal(verdict.accept, verdict.p_value > 4 * detector.alpha)
