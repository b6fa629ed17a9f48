import copy
import json
import pickle
import re

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector, FileFormatError, GaussianMixture, NotFittedError
from gmm_torch.detector import FeatureExtractor
from gmm_torch.detector.file import read_parts, write_parts
from gmm_torch.scores import SCORES, make_score
from tests.gmm_torch.conftest import TinyNet, batches, images, new_net, of_score


@pytest.fixture(scope="module")
def fitted_once():
    return FailureDetector(new_net(), n_components=3).fit(batches(300, 1)).calibrate(batches(99, 2))


@pytest.fixture
def calibrated_here(its_net):
    """Knows the tensors of its classifier, which a copy does not."""
    return FailureDetector(its_net, score=make_score("max_softmax")).fit(batches(300, 1)).calibrate(batches(99, 2))


def test_the_papers_score_is_the_log_likelihood_of_the_penultimate_features(its_net):
    x = images(20, 3)
    detector = FailureDetector(its_net, score=make_score("log_likelihood", n_components=3))
    detector.fit(batches(300, 1)).calibrate(batches(99, 2))
    features = FeatureExtractor(its_net)(x).layers["head:input"][:, 0]
    mixture = GaussianMixture(3, 6).fit(
        FeatureExtractor(its_net)(torch.cat([b[0] for b in batches(300, 1)])).layers["head:input"][:, 0],
        reg_covar=1e-2,
        shrinkage="oas",
    )
    torch.testing.assert_close(detector(x).score, mixture.log_prob(features), rtol=1e-4, atol=1e-4)


def test_a_verdict_is_the_classifiers_answer_with_a_rank_among_calibration_scores(its_net, detector):
    x = images(50, 3)
    verdict = detector(x)
    its_net.eval()
    torch.testing.assert_close(verdict.logits, its_net(x))
    assert torch.equal(verdict.prediction, its_net(x).argmax(1))
    of_all = detector(torch.cat([b[0] for b in batches(99, 2)])).score
    calibration = detector.calibration.scores
    assert bool(torch.isclose(of_all, calibration[:, None], rtol=1e-4, atol=1e-4).any(1).all())
    rank = (calibration <= verdict.score[:, None]).sum(1)
    torch.testing.assert_close(verdict.p_value, (1 + rank).double() / (1 + len(calibration)), atol=0.0151, rtol=0)
    assert torch.equal(verdict.accept, verdict.p_value > 0.05)


def test_images_from_elsewhere_are_refused(detector):
    assert not detector(images(50, 3) * 10).accept.any()


def test_labels_make_no_difference(its_net, detector):
    unlabelled = FailureDetector(its_net, n_components=3)
    unlabelled.fit([b[0] for b in batches(300, 1)]).calibrate([b[0] for b in batches(99, 2)])
    assert torch.equal(unlabelled(images(9, 3)).score, detector(images(9, 3)).score)


def test_nan_pixels_are_refused(detector):
    x = images(4, 3)
    x[1, 0, 2, 2] = torch.nan
    verdict = detector(x)
    assert not verdict.accept[1]
    torch.testing.assert_close(verdict.p_value[1], torch.tensor(1 / 67, dtype=torch.float64))
    assert torch.isfinite(verdict.p_value).all()


def test_huge_pixels_are_refused(detector):
    assert not detector(images(4, 3) * 1e30).accept.any()


def test_the_margin_has_the_sign_of_the_verdict_and_a_gradient(detector):
    x = (images(60, 3) * 2).requires_grad_()
    margin = detector.margin(x)
    assert torch.equal(margin >= 0, detector(x).accept)
    margin.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).any()


def test_a_verdict_has_a_graph_where_the_inputs_ask_for_one(detector):
    x = images(5, 3)
    assert not any(value.requires_grad for value in detector(x))
    detector(x.requires_grad_()).score.sum().backward()
    assert x.grad is not None
    assert not detector(detector.extractor(x.detach())).p_value.requires_grad


def step(net):
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    net(images(5, 7)).sum().backward()
    optimiser.step()


def through_data(net):
    net.head.weight.data += 1


def other_memory(net):
    net.head.weight.data = -net.head.weight.data


CHANGES = {
    "a step of training": step,
    "other weights": lambda net: net.load_state_dict(TinyNet().state_dict()),
    "a buffer": lambda net: net.norm.running_mean.add_(1),
    "other memory": other_memory,
    "a vector": lambda net: nn.utils.vector_to_parameters(
        -nn.utils.parameters_to_vector(net.parameters()), net.parameters()
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_that_changed_after_calibration_are_noticed(calibrated_here, its_net, change, tmp_path):
    before = copy.deepcopy(its_net.state_dict())
    change(its_net)
    for use in (lambda: calibrated_here(images(2, 0)), lambda: calibrated_here.save(tmp_path / "d.safetensors")):
        with pytest.raises(ValueError, match=r"expected the weights on which .*; got others.*calibrate again"):
            use()
    copied = pickle.loads(pickle.dumps(calibrated_here))
    its_net.load_state_dict(before)
    calibrated_here(images(2, 0))
    with pytest.raises(ValueError, match="got others"):
        copied(images(2, 0))
    copied.calibrate(batches(100, 2))(images(2, 0))


def test_what_writes_to_data_is_noticed_when_saving(calibrated_here, its_net, tmp_path):
    calibrated_here(images(2, 0))
    through_data(its_net)
    with pytest.raises(ValueError, match="got others"):
        calibrated_here.save(tmp_path / "d.safetensors")


def test_fitting_again_forgets_the_calibration(detector):
    detector.fit(batches(200, 5))
    with pytest.raises(NotFittedError, match="calibrate"):
        detector(images(2, 0))


def test_use_before_fit_is_one_clear_error(its_net):
    for use in (lambda d: d(images(2, 0)), lambda d: d.calibrate(batches(30, 0)), lambda d: d.save("x")):
        with pytest.raises(NotFittedError, match="call fit"):
            use(FailureDetector(its_net))


def test_an_empty_loader_is_one_clear_error(its_net):
    with pytest.raises(ValueError, match="expected at least one batch; got none"):
        FailureDetector(its_net).fit([])
    once = iter(batches(200, 1))
    fitted = FailureDetector(its_net, n_components=2).fit(once)
    with pytest.raises(ValueError, match="got none: give a loader that can be read again, unlike a generator"):
        fitted.calibrate(once)


def test_fewer_images_than_components_make_fewer_components(its_net):
    detector = FailureDetector(its_net, n_components=10).fit(batches(100, 0))
    assert {model.mixture.n_components for model in detector.score.models().values()} == {80 // 20}


def test_what_is_no_tensor_and_inputs_in_place_of_batches_are_told(its_net, detector):
    x = images(60, 1)
    for batch in (["a"], ("a", 0), (0, x)):
        with pytest.raises(TypeError, match=r"inputs: expected a tensor \(N, ...\), .*; got (int|str)"):
            FailureDetector(its_net).fit([batch])
    with pytest.raises(TypeError, match="got str"):
        detector("a")
    with pytest.raises(ValueError, match=r"loader: expected batches .*got one tensor \(60, 1, 6, 6\)"):
        FailureDetector(its_net).fit(x)


def test_hardly_any_images_is_one_clear_error(its_net):
    with pytest.raises(ValueError, match="expected at least 3; got 2"):
        FailureDetector(its_net).fit(batches(2, 0))


def test_a_calibration_set_too_small_says_how_many_it_needs(its_net):
    detector = FailureDetector(its_net, n_components=2, alpha=0.01).fit(batches(100, 0))
    with pytest.raises(ValueError, match=r"alpha=0\.01 needs at least 99 inputs; got 98"):
        detector.calibrate(batches(98, 1))


@pytest.mark.parametrize("alpha", [0, 1, -0.1, float("nan")])
def test_alpha_must_lie_between_zero_and_one(its_net, alpha):
    with pytest.raises(ValueError, match="alpha"):
        FailureDetector(its_net, alpha=alpha)


def test_features_that_are_not_finite_are_counted(its_net):
    bad = batches(100, 0)
    bad[0][0][3] = torch.inf
    with pytest.raises(ValueError, match="1 of 100 inputs give NaN or infinity"):
        FailureDetector(its_net, n_components=2).fit(bad)


def test_a_saved_detector_gives_the_same_verdicts(its_net, detector, tmp_path):
    path = tmp_path / "sub" / "detector.safetensors"
    detector.save(path)
    loaded = FailureDetector.load(path, its_net)
    for mine, theirs in zip(detector(images(40, 3)), loaded(images(40, 3)), strict=True):
        assert torch.equal(mine, theirs)
    assert [p.name for p in path.parent.iterdir()] == ["detector.safetensors"]


@pytest.mark.parametrize("value", [{"std": None}, {"size": {"height": 8}}, {1: 2}, [0.5]])
def test_no_file_is_written_that_would_be_refused(detector, value, tmp_path):
    detector.preprocessing = value
    with pytest.raises(ValueError, match=r"preprocessing.*: expected what a file can hold"):
        detector.save(tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_names_of_classes_come_along_and_explain(its_net, detector, tmp_path):
    x = images(4, 3)
    assert detector.explain(x, n_nearest=0)[0].class_names is None
    detector.class_names = ["cat", "dog", "owl"]
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", its_net)
    for each in (detector, loaded):
        found = each.explain(x, n_nearest=0)
        assert list(found[0].class_names) == ["cat", "dog", "owl"]
        assert each.explain(x, ["a", "b", "c"], n_nearest=0)[0].class_names == ["a", "b", "c"]


@pytest.mark.parametrize("value", ["cat", [0, 1, 2], None, 3])
def test_names_that_are_no_words_are_refused_at_once(detector, value):
    with pytest.raises(ValueError, match=f"class_names: expected a list of words, .*; got {re.escape(repr(value))}"):
        detector.class_names = value
    assert detector.class_names == ()


def test_a_file_for_another_classifier_is_refused(its_net, detector, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="layers or shapes are not those"):
        FailureDetector.load(tmp_path / "d.safetensors", TinyNet(n_features=7))
    torch.manual_seed(9)
    with pytest.raises(ValueError, match="weights are not those"):
        FailureDetector.load(tmp_path / "d.safetensors", TinyNet())
    FailureDetector.load(tmp_path / "d.safetensors", TinyNet(), strict=False)


def test_a_missing_file_is_named(its_net, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing at .*none\.safetensors"):
        FailureDetector.load(tmp_path / "none.safetensors", its_net)


def test_tensors_that_do_not_fit_or_are_not_finite_are_named(its_net, detector, tmp_path):
    path = tmp_path / "d.safetensors"
    detector.save(path)
    words, tensors = read_parts(path)
    name = next(key for key in tensors if key.endswith("centred_means"))
    write_parts(path, json.loads(words), {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(FileFormatError, match="centred_means"):
        FailureDetector.load(path, its_net)
    write_parts(path, json.loads(words), tensors | {name: torch.full_like(tensors[name], torch.nan)})
    with pytest.raises(FileFormatError, match="NaN or infinity"):
        FailureDetector.load(path, its_net)


def test_the_detector_is_a_module_on_the_classifiers_device(its_net, detector):
    own = {f"extractor.classifier.{name}" for name, _ in its_net.named_parameters()}
    assert set(dict(detector.named_parameters())) >= own
    moved = detector.double()
    assert moved(images(3, 0).double()).score.dtype == torch.float64


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_verdicts_on_a_gpu_are_those_on_a_cpu(its_net):
    cpu = FailureDetector(its_net, n_components=3).fit(batches(300, 1)).calibrate(batches(99, 2))(images(40, 3))
    gpu = FailureDetector(its_net.cuda(), n_components=3).fit(batches(300, 1)).calibrate(batches(99, 2))
    verdict = gpu(images(40, 3).cuda())
    assert verdict.score.is_cuda
    torch.testing.assert_close(verdict.score.cpu(), cpu.score, rtol=1e-3, atol=1e-3)


def test_a_classifier_of_vectors_works_as_one_of_images():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    detector = FailureDetector(mlp, n_components=2).fit(x[:200].split(50)).calibrate(x[200:].split(50))
    assert detector.extractor.layers == ["2:input"]
    assert not detector(torch.full((1, 5), 50.0)).accept.any()


def test_views_cost_one_pass_each_and_one_is_the_image_alone(its_net):
    assert FailureDetector(its_net).extractor.views == ("identity", "mirror", "blur")
    assert FailureDetector(its_net, views=1).extractor.views == ("identity",)
    assert FailureDetector(its_net, views=["identity", "shift"]).extractor.views == ("identity", "shift")
    with pytest.raises(ValueError, match="expected 1 to 3 for the score"):
        FailureDetector(its_net, views=4)


def test_options_that_a_score_would_ignore_are_refused(its_net):
    score = make_score("log_likelihood")
    for options in ({"n_components": 3}, {"covariance_type": "full"}, {"n_components": 3, "covariance_type": "banana"}):
        with pytest.raises(ValueError, match=" and ".join(options) + ": expected none together with a score"):
            FailureDetector(its_net, score=score, **options)
    with pytest.raises(ValueError, match=r"covariance_type: .*banana"):
        FailureDetector(its_net, covariance_type="banana")
    for name in SCORES:
        if "covariance_type" in make_score(name).options():
            with pytest.raises(ValueError, match=r"covariance_type: .*banana"):
                make_score(name, covariance_type="banana")
    with pytest.raises(ValueError, match="n_components"):
        FailureDetector(its_net, n_components=0)


@pytest.mark.parametrize(("n", "left", "reference"), [(900, 600, 300), (300, 200, 160), (30, 20, 70), (19, 19, 60)])
def test_a_third_of_the_calibration_set_at_most_becomes_reference_with_fitting_images_where_it_is_small(
    its_net, detector, n, left, reference
):
    detector.calibrate(batches(n, 2))
    assert len(detector.calibration) == left
    assert detector.score.held_out.shape == (4, 60)
    assert detector.score.references.shape == (4, reference)


def test_calibrating_again_leaves_nothing_of_the_earlier_calibration(its_net):
    def calibrated(*sizes):
        detector = FailureDetector(its_net, n_components=3).fit(batches(300, 1))
        for n in sizes:
            detector.calibrate(batches(n, n))
        return detector(images(50, 3))

    for again, once in zip(calibrated(900, 60), calibrated(60), strict=True):
        assert torch.equal(again, once)


def test_a_calibration_that_fails_leaves_the_earlier_one(its_net, detector):
    before = detector(images(50, 3))
    for bad in (images(60, 4), images(18, 4)):
        bad[7] *= 1e7 if len(bad) == 60 else 1
        with pytest.raises(ValueError, match=r"calibration inputs: expected numbers like|needs at least 19"):
            detector.calibrate([bad])
        assert all(torch.equal(a, b) for a, b in zip(detector(images(50, 3)), before, strict=True))


# of many images, those that keep some of them; the contract below asks for files of every score fitted to 300
OF_SIZES = [*((name, n) for name in SCORES for n in (12, 60)), ("combined", 450), ("labelled_combined", 450)]


@pytest.mark.parametrize(("name", "n"), OF_SIZES)
def test_files_of_every_score_are_read_however_few_images_it_was_fitted_to(name, n, its_net, tmp_path):
    detector = FailureDetector(its_net, score=make_score(name), alpha=0.1)
    detector.fit(batches(n, 1)).calibrate(batches(60, 2))
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", its_net)
    assert torch.equal(loaded(images(9, 3)).p_value, detector(images(9, 3)).p_value)


def test_the_order_of_images_changes_nothing(its_net):
    def verdict(order):
        fitting, calibration = images(300, 1), images(300, 2)
        if order == "by class":
            fitting, calibration = (x[its_net.eval()(x).argmax(1).argsort(stable=True)] for x in (fitting, calibration))
        detector = FailureDetector(its_net, n_components=3).fit(fitting.split(60)).calibrate(calibration.split(60))
        return detector(images(200, 3))

    mixed, sorted_by_class = verdict("mixed"), verdict("by class")
    torch.testing.assert_close(sorted_by_class.score, mixed.score, rtol=1e-4, atol=1e-4)
    assert (sorted_by_class.p_value - mixed.p_value).abs().max() <= 1.01 / 201


def test_the_parts_rank_among_images_that_the_mixtures_have_not_learned_from(its_net):
    x = images(300, 1)
    detector = FailureDetector(its_net, n_components=3).fit(x.split(64))
    assert detector.n_fitted == 300
    scores = torch.stack([part(detector.extractor(x)) for part in detector.score.parts.values()])
    learned = torch.ones(300, dtype=torch.bool)
    learned[detector.features(x.split(64)).shuffled()[:60]] = False
    torch.testing.assert_close(detector.score.references, scores[:, ~learned].sort().values, rtol=1e-4, atol=1e-4)


def test_files_keep_fewer_components_and_the_images_held_out(its_net, tmp_path):
    detector = FailureDetector(its_net).fit(batches(70, 0)).calibrate(batches(40, 1))
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", its_net)
    assert loaded.score.models()["moment_likelihood"].mixture.n_components == 2
    assert torch.equal(loaded(images(9, 3)).p_value, detector(images(9, 3)).p_value)
    for each in (loaded, detector):
        each.calibrate(batches(60, 2))
    assert torch.equal(loaded(images(9, 3)).score, detector(images(9, 3)).score)


OF_VIEWS = [(name, views) for name in SCORES for views in (1, None) if (name, views) != ("augmentation_consistency", 1)]


@pytest.mark.parametrize(("name", "views"), OF_VIEWS)
def test_every_score_keeps_the_contract(name, views, its_net, tmp_path):
    if views is None:
        detector = of_score(name)
        its_net = detector.classifier
    else:
        detector = FailureDetector(its_net, score=make_score(name), views=views).fit(batches(300, 1))
        detector.calibrate(batches(300, 2))
    x = images(40, 3).requires_grad_()
    verdict = detector(x)
    assert verdict.score.shape == (40,)
    assert torch.isfinite(verdict.score).all()
    torch.testing.assert_close(detector(x[7:8]).score, verdict.score[7:8], rtol=1e-4, atol=1e-4)
    if detector.score.differentiable:
        verdict.score.sum().backward()
        assert torch.isfinite(x.grad).all()
        assert (x.grad != 0).any()
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", its_net)
    assert torch.equal(loaded(x).p_value, verdict.p_value)
    components = detector.score.components(detector.extractor(x))
    assert components.shape == (40, len(detector.score.models()))
    assert components.dtype == torch.int64


@pytest.mark.parametrize("name", SCORES)
def test_clean_images_are_typical_and_broken_ones_refused_whatever_the_score(name):
    detector = of_score(name)
    assert detector(images(400, 3)).accept.float().mean() > 0.85
    broken = images(2, 3)
    broken[0, 0, 0, 0] = torch.nan
    assert not detector(broken).accept[0]
