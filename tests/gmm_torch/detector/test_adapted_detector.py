"""Calibrations with weights in a detector: adapt, calibrate, verdicts, margins, files, states, export."""

import copy

import pytest
import torch
from torch import nn

from gmm_torch.conformal.label_shift import LabelShiftCalibration
from gmm_torch.conformal.weighted import WeightedCalibration
from gmm_torch.detector import Calibration, FailureDetector
from gmm_torch.errors import NotFittedError
from gmm_torch.scores import make_score
from tests.gmm_torch.conftest import PValues

N_CLASSES = 4
X = torch.rand(2200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FIT, REFERENCE, CALIBRATE, NEW = X[:400], X[400:900], X[900:1700], X[1700:2000]
DEPLOYED = 1.1 * X[2000:]  # a brighter camera


def make_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, N_CLASSES)).eval()
    with torch.no_grad():
        net[3].bias -= net(X).mean(0)
    return net


@pytest.fixture(scope="module")
def net():
    return make_net()


def batches(net, x, size=100):
    """With the labels that the classifier gets right."""
    return [(part, net(part).argmax(1).detach()) for part in x.split(size)]


KINDS = {"weighted": lambda: WeightedCalibration(max_weight=5), "label_shift": lambda: LabelShiftCalibration(N_CLASSES)}


@pytest.fixture(scope="module", params=KINDS)
def fitted(request, net):
    detector = FailureDetector(net, 2, calibration=KINDS[request.param](), alpha=0.1).fit([FIT])
    return detector.adapt([DEPLOYED], batches(net, REFERENCE)).calibrate(batches(net, CALIBRATE))


def test_the_verdict_is_the_calibrations_and_the_margin_agrees(fitted):
    with torch.no_grad():
        verdict = fitted(DEPLOYED)
        outputs = fitted.extractor(DEPLOYED)
        given = fitted.beside(outputs)
        torch.testing.assert_close(verdict.p_value, fitted.calibration.p_value(verdict.score, **given))
        assert torch.equal(verdict.accept, fitted.margin(DEPLOYED) >= 0)
        assert torch.equal(verdict.accept, verdict.p_value > 0.1)
        assert 0.7 < float(verdict.accept.double().mean()) < 1
        lowest = fitted.threshold(verdict.prediction)  # without weights: what is refused whatever it weighs
        assert not verdict.accept[verdict.score < lowest].any()


def test_one_image_has_the_verdict_that_it_has_in_a_batch(fitted):
    with torch.no_grad():
        whole = fitted(NEW)
        alone = [fitted(x[None]) for x in NEW[:40]]
    torch.testing.assert_close(torch.cat([each.p_value for each in alone]), whole.p_value[:40], rtol=1e-3, atol=1e-3)
    assert torch.equal(torch.cat([each.accept for each in alone]), whole.accept[:40])


def test_order_and_batches_of_what_it_learns_from_do_not_matter(fitted, net):
    other = FailureDetector(net, 2, calibration=fitted.calibration.fresh(), alpha=0.1).fit([FIT])
    other.adapt(DEPLOYED.flip(0).split(30), batches(net, REFERENCE.flip(0), 77))
    other.calibrate(batches(net, CALIBRATE.flip(0), 33))
    torch.testing.assert_close(other(NEW).p_value, fitted(NEW).p_value, rtol=1e-3, atol=1e-3)


def test_files_and_states_bring_it_back(fitted, net, tmp_path):
    fitted.save(tmp_path / "detector.safetensors")
    loaded = FailureDetector.load(tmp_path / "detector.safetensors", net)
    other = FailureDetector(net, 2, calibration=fitted.calibration.fresh(), alpha=0.1)
    other.load_state_dict(fitted.state_dict())
    for again in (loaded, other, copy.deepcopy(fitted)):
        assert again.calibration.options() == fitted.calibration.options()
        assert torch.equal(again(NEW).p_value, fitted(NEW).p_value)
        assert repr(again) == repr(fitted)
    assert "effective sample size" in repr(fitted)


@pytest.mark.export
@pytest.mark.parametrize("kind", KINDS)
def test_it_exports_with_a_dynamic_batch(net, kind):
    score = make_score("log_likelihood", n_components=2)
    detector = FailureDetector(net, score=score, calibration=KINDS[kind](), alpha=0.1).fit([FIT])
    detector.adapt([DEPLOYED], batches(net, REFERENCE)).calibrate(batches(net, CALIBRATE))
    module = PValues(detector).eval()
    program = torch.export.export(module, (NEW[:5],), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.testing.assert_close(program.module()(NEW[:77]), module(NEW[:77]), rtol=1e-5, atol=1e-6)


def test_it_has_to_be_calibrated_after_it_was_adapted_and_adapted_before(fitted, net):
    detector = copy.deepcopy(fitted).adapt([DEPLOYED], batches(net, REFERENCE))
    for use in (lambda: detector(NEW), lambda: detector.margin(NEW)):
        with pytest.raises(NotFittedError, match="call calibrate"):
            use()
    assert "promises nothing" in repr(detector) or "no scores yet" in repr(detector)
    detector.fit([FIT])
    with pytest.raises(NotFittedError, match=r"no weights yet: call adapt\(deployment, reference\) before calibrate"):
        detector.calibrate(batches(net, CALIBRATE))


def test_calibration_inputs_that_the_weights_were_learnt_from_are_refused(fitted, net, tmp_path):
    detector = copy.deepcopy(fitted).adapt([DEPLOYED], batches(net, REFERENCE))
    with pytest.raises(ValueError, match=r"none of the reference inputs of `adapt`; got 10 of 810"):
        detector.calibrate(batches(net, torch.cat([CALIBRATE, REFERENCE[:10]])))
    detector.calibrate(batches(net, CALIBRATE)).save(tmp_path / "detector.safetensors")
    loaded = FailureDetector.load(tmp_path / "detector.safetensors", net)
    with pytest.raises(ValueError, match=r"none of the reference inputs of `adapt`; got 500 of 500"):
        loaded.calibrate(batches(net, REFERENCE))


def test_what_nothing_can_be_learnt_from_is_refused_in_words(fitted, net):
    detector = copy.deepcopy(fitted)
    before = detector(NEW).p_value
    broken = REFERENCE.clone()
    broken[0] = 1e30
    with pytest.raises(
        ValueError, match="reference inputs: expected numbers like those of the fitting inputs; 1 of 500"
    ):
        detector.adapt([DEPLOYED], [(broken, torch.arange(500) % N_CLASSES)])
    assert torch.equal(detector(NEW).p_value, before)
    plain = FailureDetector(net, 2, alpha=0.1).fit([FIT])
    with pytest.raises(TypeError, match="calibration: expected one with weights to adapt"):
        plain.adapt([DEPLOYED], [REFERENCE])


def test_a_shift_beyond_what_the_weights_can_bridge_is_refused(net):
    detector = FailureDetector(net, 2, calibration=WeightedCalibration(), alpha=0.1).fit([FIT])
    detector.adapt([4 * DEPLOYED], [REFERENCE])
    with pytest.raises(ValueError, match="the deployment inputs lie where too few calibration inputs do"):
        detector.calibrate([CALIBRATE])


def test_broken_deployment_inputs_are_left_out_of_the_weights(net):
    broken = DEPLOYED.clone()
    broken[:5] = 1e20
    one, other = (
        FailureDetector(net, score=make_score("log_likelihood"), calibration=KINDS["weighted"](), alpha=0.1)
        .fit([FIT])
        .adapt([x], [REFERENCE])
        .calibrate([CALIBRATE])
        for x in (broken, DEPLOYED[5:])
    )
    assert torch.equal(one(NEW).p_value, other(NEW).p_value)


def test_weights_repair_the_rate_of_another_camera(net):
    plain = FailureDetector(net, score=make_score("log_likelihood"), alpha=0.1).fit([FIT])
    plain.calibrate([CALIBRATE])
    weighted = FailureDetector(net, score=make_score("log_likelihood"), calibration=WeightedCalibration(), alpha=0.1)
    weighted.fit([FIT]).adapt([DEPLOYED], [REFERENCE]).calibrate([CALIBRATE])
    assert isinstance(plain.calibration, Calibration)
    x = 1.1 * NEW
    rates = [float((detector(x).p_value <= 0.1).double().mean()) for detector in (plain, weighted)]
    assert rates[1] < rates[0]
