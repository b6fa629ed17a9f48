import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detector import Features
from gmm_torch.detector.verdict import Verdict
from trainers.attacks.adaptive.guarded import Guarded, guarded_logits
from trainers.attacks.adaptive.threat_model import Observation, observe, smooth_log_tail, smooth_score

WIDTH = {"width": 32, "allow_nan": False}
NUMBERS = st.floats(-1e4, 1e4, **WIDTH)
MARGINS = st.one_of(NUMBERS, st.sampled_from([0.0, -0.0, 1e-30, -1e-30, float("inf"), float("-inf"), float("nan")]))


def observation_of(logits, margin, accept):
    logits, margin, accept = torch.tensor([logits]), torch.tensor([margin]), torch.tensor([accept])
    verdict = Verdict(logits, logits.argmax(1), margin, margin, accept)
    return Observation(Features(logits[:, None], {}), verdict, margin)


@settings(max_examples=200, deadline=None)
@given(logits=st.lists(NUMBERS, min_size=2, max_size=6), margin=MARGINS, accept=st.booleans())
def test_the_last_class_wins_exactly_where_the_verdict_is_refused(logits, margin, accept):
    observation = observation_of(logits, margin, accept)
    found = guarded_logits(observation)
    assert found.shape == (1, len(logits) + 1)
    assert torch.equal(found[:, :-1], observation.logits)
    winner = int(found.argmax(1))
    assert winner == (int(observation.logits.argmax(1)) if accept else len(logits))


@pytest.mark.parametrize(
    ("score", "calibration"),
    [("combined", None), ("combined", MondrianCalibration(10)), ("log_likelihood", None), ("max_softmax", None)],
)
def test_the_guarded_classifier_says_what_classifier_and_detector_say(score, calibration, make_detector, digits):
    options = {} if score == "max_softmax" else {"n_components": 3}
    detector = make_detector(score, calibration, **options)
    clean = digits[0][1400:1500]
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0, 1, len(clean))[:, None, None, None]
    images = (1 - share) * clean + share * noise
    with torch.no_grad():
        verdict, found = detector(images), Guarded(detector)(images).argmax(1)
    assert 5 < int(verdict.accept.sum()) < 95
    assert torch.equal(found == 10, ~verdict.accept)
    assert torch.equal(found[verdict.accept], verdict.prediction[verdict.accept])


def test_every_logit_has_a_gradient(detector, digits):
    images = digits[0][1400:1410].clone().requires_grad_()
    found = Guarded(detector)(images)
    for c in (0, 10):
        (gradient,) = torch.autograd.grad(found[:, c].sum(), images, retain_graph=True)
        assert bool(gradient.isfinite().all())
        assert bool((gradient != 0).flatten(1).any(1).all())


def test_a_margin_is_that_of_the_detector_and_leads_through_all_views(detector, digits):
    images = digits[0][1400:1410].clone().requires_grad_()
    observation = observe(detector, images)
    spread = detector.calibration.scores.std(correction=0)
    torch.testing.assert_close(observation.margin, detector.margin(images) / spread)
    assert torch.equal(observation.verdict.accept, detector(images).accept)
    assert len(detector.extractor.views) == 3
    (gradient,) = torch.autograd.grad(observation.margin.sum(), observation.outputs.logits)  # (n, V, C)
    assert bool((gradient != 0).any(2).all())


def test_smoothing_changes_no_score(detector, digits):
    with torch.no_grad():
        outputs = detector.extractor(digits[0][1400:1500])
        assert torch.equal(smooth_score(detector.score, outputs), detector.score(outputs))


def test_smoothed_ranks_rise_where_ranks_are_flat():
    reference = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 2.0])
    score = torch.tensor([-50.0, 0.0, 1.5, 2.5], requires_grad=True)
    (gradient,) = torch.autograd.grad(smooth_log_tail(score, reference).sum(), score)
    assert bool((gradient > 0).all())
    assert bool(gradient.isfinite().all())
