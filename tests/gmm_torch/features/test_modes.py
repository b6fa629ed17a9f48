"""Verdicts on clean inputs, whatever the precision that the classifier runs in.

For inputs like those of the calibration set the number refused of N_TEST is beta-binomial, of mean alpha at most. A
valid detector exceeds the bound below with a probability of 5e-4, which a fixed seed decides once.
"""

import copy
import warnings

import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

import gmm_torch
from gmm_torch import FailureDetector
from gmm_torch.detector import FeatureExtractor
from gmm_torch.features.augmentations import blur
from gmm_torch.features.hook import FeatureHook
from gmm_torch.scores import make_score

N_TRAIN, N_FIT, N_CALIBRATE, N_TEST, ALPHA = 500, 350, 500, 447, 0.05
FALSE_ALARM = 5e-4
HALF = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def digits():
    """Images (n, 1, 16, 16) in [0, 1], in a fixed random order, and a small network trained on the first of them."""
    data = load_digits()
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    y = torch.tensor(data.target)[order]
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)),
    )
    optimiser = torch.optim.Adam(net.parameters(), 2e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, 100)
    for _ in range(10):
        for rows in torch.randperm(N_TRAIN).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
            decay.step()
    fitting, calibration, test = x[N_TRAIN:].split([N_FIT, N_CALIBRATE, N_TEST])
    return net.eval(), fitting, calibration, test, y[-N_TEST:]


@pytest.fixture(scope="module", params=[3, 1], ids=["three views", "one pass"])
def detector(digits, request):
    net, fitting, calibration, _, _ = digits
    detector = FailureDetector(net, n_components=3, views=request.param, alpha=ALPHA)
    return detector.fit(fitting.split(175)).calibrate(calibration.split(250))


def check_refused(detector, accept):
    n = len(detector.calibration)
    k = int(ALPHA * (n + 1))  # of n + 1 ranks so many are refused
    most = stats.betabinom(N_TEST, k, n + 1 - k).isf(FALSE_ALARM)
    assert int((~accept).sum()) <= most < 0.14 * N_TEST


def test_the_network_is_a_good_one(digits, detector):
    net, _, _, test, labels = digits
    assert (net(test).argmax(1) == labels).float().mean() > 0.9
    check_refused(detector, detector(test).accept)


@pytest.mark.parametrize("dtype", HALF)
def test_clean_inputs_are_accepted_under_autocast(digits, detector, dtype):
    test = digits[3]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", gmm_torch.PrecisionWarning)
        plain = detector(test)
        with torch.autocast("cpu", dtype=dtype):
            outputs = detector.extractor(test)
            verdicts = [detector(test), detector(outputs)]
            margin = detector.margin(test)
            assert detector.score.components(outputs).shape == (N_TEST, len(detector.score.models()))
    assert all(value.dtype == torch.float32 for value in (outputs.logits, *outputs.layers.values()))
    for verdict in verdicts:
        check_refused(detector, verdict.accept)
        assert verdict.score.dtype == torch.float32
        assert (verdict.p_value - plain.p_value).abs().mean() < 0.05
        assert torch.equal(margin >= 0, verdict.accept)
        assert torch.equal(verdict.score, verdicts[0].score)


@pytest.mark.parametrize("dtype", [*HALF, torch.float64])
def test_clean_inputs_are_accepted_by_a_classifier_of_another_type(digits, detector, dtype, tmp_path):
    net, _, _, test, _ = digits
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", copy.deepcopy(net).to(dtype), strict=False)
    plain = detector(test)
    with pytest.warns(gmm_torch.PrecisionWarning, match=f"expected outputs in float32.*got {str(dtype)[6:]}"):
        verdict = loaded(test.to(dtype))
    check_refused(loaded, verdict.accept)
    assert (verdict.p_value - plain.p_value).abs().mean() < 0.05
    assert loaded._warned_of  # said once
    moved = copy.deepcopy(loaded).to(dtype)  # what the detector has learned is never made narrower
    assert torch.equal(moved.score.references.float(), detector.score.references)
    if dtype in HALF:
        assert torch.equal(moved(test.to(dtype)).score, verdict.score)


@pytest.mark.parametrize("name", ["mahalanobis", "log_likelihood", "depth_consistency"])
def test_a_score_can_be_fitted_calibrated_and_asked_in_the_same_precision(digits, name):
    net, fitting, calibration, test, _ = digits
    detector = FailureDetector(net, score=make_score(name), alpha=ALPHA)
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error", gmm_torch.PrecisionWarning)
        detector.fit(fitting.split(175)).calibrate(calibration.split(250))
        verdict = detector(test)
    check_refused(detector, verdict.accept)
    learned = [*detector.score.buffers(), *detector.score.parameters(), *detector.calibration.buffers()]
    assert {value.dtype for value in learned if value.is_floating_point()} == {torch.float32}
    assert detector.precision.endswith("under autocast to bfloat16")


def test_the_precision_of_the_calibration_is_kept_and_told_once_when_another_arrives(digits, tmp_path):
    net, fitting, calibration, test, _ = digits
    detector = FailureDetector(net, n_components=2, views=1).fit(fitting.split(175))
    assert detector.precision == ""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        detector.calibrate(calibration.split(250))
    assert "under autocast to bfloat16" in detector.precision
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", net)
    for each in (detector, loaded):
        asked = [each, each.margin, each.explain]
        for ask in asked[:1]:
            with pytest.warns(gmm_torch.PrecisionWarning, match="got float32: "):
                ask(test[:9])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for ask in asked:
                ask(test[:9])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                each(test[:9])
    detector.calibrate(calibration.split(250))
    assert detector.precision == "float32"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector(test[:9])
    with pytest.warns(gmm_torch.PrecisionWarning), torch.autocast("cpu", dtype=torch.bfloat16):
        detector.margin(test[:9])


def test_a_detector_in_float64_is_stored_and_read_as_that(digits, tmp_path):
    net, fitting, calibration, test, _ = digits
    wide = copy.deepcopy(net).double()
    detector = FailureDetector(wide, n_components=2).fit(fitting.double().split(175))
    detector.calibrate(calibration.double().split(250))
    assert detector.dtype == torch.float64
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", wide)
    found, expected = loaded(test.double()), detector(test.double())
    assert torch.equal(found.score, expected.score)
    assert torch.equal(found.p_value, expected.p_value)
    check_refused(detector, expected.accept)


@pytest.mark.parametrize("dtype", HALF)
def test_pooling_and_views_are_exact_where_the_classifier_is_not(digits, dtype):
    net, _, _, test, _ = digits
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        maps = net[:4](test[:64])
        extractor = FeatureExtractor(net, ["3"], pooling="moments", views=("identity", "blur"))
        found = extractor(test[:64])
        with FeatureHook(net, "3", pooling="moments") as hook:
            net(test[:64])
            caught = hook.take().features
    assert maps.dtype == dtype
    expected = torch.cat([maps.float().mean((2, 3)), maps.float().std((2, 3), correction=0)], dim=1)
    torch.testing.assert_close(found.layers["3"][:, 0], expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(caught, found.layers["3"][:, 0])
    given: list[torch.Tensor] = []
    hook = net.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        extractor(test[:64])
    hook.remove()
    assert torch.equal(given[1], blur(test[:64]))


def test_a_compiled_detector_is_as_exact(digits):
    net, fitting, calibration, test, _ = digits
    detector = FailureDetector(net, score=make_score("moment_likelihood", n_components=2), alpha=ALPHA)
    detector.fit(fitting.split(175)).calibrate(calibration.split(250))
    compiled = torch.compile(detector, backend="eager")
    warnings.simplefilter("ignore", gmm_torch.PrecisionWarning)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        verdict = compiled(test)
    check_refused(detector, verdict.accept)
    assert verdict.score.dtype == torch.float32
