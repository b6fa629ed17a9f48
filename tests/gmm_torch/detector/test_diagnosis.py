"""What makes a detector weak is found, and only that; the page has a section for each finding."""

import re

import pytest
import torch

from gmm_torch import FailureDetector
from gmm_torch.detector.summary import PAGE, diagnose
from tests.gmm_torch.conftest import TinyNet, images
from tests.pages import ROOT

X = images(600, 0) + 2 * (torch.arange(600) % 2).view(-1, 1, 1, 1)  # of two kinds


def sections(detector):
    return [finding.section for finding in diagnose(detector)]


@pytest.fixture
def detector(net):
    detector = FailureDetector(net, n_components=2, layers=["conv"], views=1).fit(X[:200].split(100))
    return detector.calibrate(X[:600].split(100))


def test_nothing_is_found_where_all_is_well(detector):
    assert diagnose(detector) == []
    detector.component_report([(X[:300], detector(X[:300]).prediction)])
    assert diagnose(detector) == []


def test_few_calibration_inputs_are_found_by_the_realised_rate(detector):
    detector.calibrate(X[200:290].split(90))
    (finding,) = diagnose(detector)
    n = len(detector.calibration)
    low, high = detector.calibration.realised_rate(0.05)
    assert str(finding) == (
        f"with {n} calibration inputs, {low:.1%} to {high:.1%} of good inputs are refused at alpha = 0.05, "
        f"in 95 of 100 such sets: see {PAGE}#few-calibration-images"
    )
    assert f"alpha: 0.05, in 95 of 100 calibration sets {low:.1%} to {high:.1%} of good inputs refused" in str(detector)


def test_too_few_inputs_for_a_mixture_are_found():
    torch.manual_seed(0)
    detector = FailureDetector(TinyNet(40), n_components=4, layers=["conv"], views=1, covariance_type="full")
    detector.fit(X[:80].split(80)).calibrate(X[80:].split(100))
    found = [str(finding) for finding in diagnose(detector) if finding.section == "too-few-images-to-fit"]
    models = detector.score.models()
    assert found
    for text, (name, model) in zip(found, models.items(), strict=False):
        k, d = model.mixture.n_components, model.mixture.n_features
        assert text.startswith(f"{name}: ")
        assert f"for {k} components of {d} features, which need {-(-2 * model.mixture.n_parameters() // d)}" in text
        assert abs(2 * model.mixture.n_parameters() / d - k * (d + 3)) < 1  # as the page says


def test_a_low_accuracy_is_found_on_labelled_inputs(detector):
    verdict = detector(X[:300])
    detector.component_report([(X[:300], (verdict.prediction + (torch.arange(300) % 2)) % 3)])
    assert sections(detector) == ["low-accuracy"]
    assert "right on 50% of 300 labelled" in str(diagnose(detector)[0])


def test_the_page_has_a_section_for_each_finding():
    headings = re.findall("^## (.+)$", (ROOT / PAGE).read_text(), re.MULTILINE)
    source = (ROOT / "gmm_torch" / "detector" / "summary.py").read_text()
    source += (ROOT / "trainers" / "evaluation" / "diagnosis.py").read_text()
    named = set(re.findall(r'Finding\("([a-z-]+)"', source))
    assert named == {heading.lower().replace(" ", "-") for heading in headings}
    assert len(named) == 8
