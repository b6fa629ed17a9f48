import copy
import dataclasses

import pytest
import torch

from gmm_torch import FailureDetector, NotFittedError
from gmm_torch.scores import SCORES
from tests.gmm_torch.conftest import batches, images, new_net, of_score

N_FIT = 300
NAMES = ("ant", "bee", "cat")


def fitted(net, **options):
    return FailureDetector(net, n_components=3, **options).fit(batches(N_FIT, 1)).calibrate(batches(200, 2))


@pytest.fixture(scope="module")
def fitted_once():
    return fitted(new_net())


@pytest.fixture
def explanation(detector):
    return detector.explain(images(20, 3))


def tensors_of(explanation):
    found = {"p_value": explanation.verdict.p_value, "views": explanation.views, "dominant": explanation.dominant}
    found |= explanation.part_p_values
    for name, mixture in explanation.mixtures.items():
        kinds = vars(mixture).items()
        found |= {f"{name}.{key}": value for key, value in kinds if isinstance(value, torch.Tensor)}
    return found


def test_it_holds_the_verdict_and_what_each_part_and_view_says(detector, explanation):
    x = images(20, 3)
    outputs = detector.extractor(x)
    assert torch.equal(explanation.verdict.p_value, detector(x).p_value)
    assert explanation.view_names == ("identity", "mirror", "blur")
    for v in range(3):
        expected = outputs.logits[:, v].softmax(-1).gather(1, explanation.verdict.prediction[:, None])[:, 0]
        torch.testing.assert_close(explanation.views[:, v], expected)
    assert set(explanation.part_p_values) == {
        "mean_log_probability",
        "moment_likelihood",
        "logit_likelihood",
        "augmentation_consistency",
    }
    assert set(explanation.mixtures) == {"moment_likelihood", "logit_likelihood"}
    for p in explanation.part_p_values.values():
        assert ((p > 0) & (p <= 1)).all()


def test_the_dominant_part_is_the_one_whose_silence_would_raise_the_score_most(detector, explanation):
    outputs = detector.extractor(images(20, 3))
    log_p = detector.score.log_p_values(outputs)
    whole = detector.score(outputs)
    rises = []
    for j in range(log_p.shape[1]):
        silent = log_p.clone()
        silent[:, j] = torch.tensor(0.5).log()
        rises.append(detector.score.join(silent) - whole)
    assert torch.equal(explanation.dominant, torch.stack(rises).argmax(0))


def test_contributions_sum_to_the_squared_distance_to_the_components_mean(detector, explanation):
    outputs = detector.extractor(images(20, 3))
    for name, model in detector.score.models().items():
        found = explanation.mixtures[name]
        points = model.points(outputs)
        assert torch.equal(found.component, model.mixture.predict(points))
        torch.testing.assert_close(found.contributions.sum(1), found.squared_distance, rtol=0, atol=0)
        deviation = points.double() - model.mixture.means.double()[found.component]
        precisions = torch.linalg.inv(model.mixture.dense_covariances.double())[found.component]
        expected = torch.einsum("ni,nij,nj->n", deviation, precisions, deviation)
        torch.testing.assert_close(found.squared_distance, expected, rtol=1e-3, atol=1e-3)
        largest = found.contributions.gather(1, found.features)
        assert (largest.diff(dim=1) <= 0).all()
        torch.testing.assert_close(largest[:, 0], found.contributions.amax(1))


def test_the_nearest_inputs_are_those_that_a_search_over_all_fitting_inputs_finds(detector, explanation):
    fitting = torch.cat([x for x, _ in batches(N_FIT, 1)])
    outputs, memories = detector.extractor(images(20, 3)), detector.extractor(fitting)
    for name, model in detector.score.models().items():
        found = explanation.mixtures[name]
        points, anchors = model.points(outputs).double(), model.points(memories).double()
        precisions = torch.linalg.inv(model.mixture.dense_covariances.double())
        for i in range(20):
            deviation = anchors - points[i]
            distance = ((deviation @ precisions[found.component[i]]) * deviation).sum(1).clamp_min(0).sqrt()
            expected = distance.sort()
            torch.testing.assert_close(found.distance[i].double(), expected.values[:5], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(distance[found.nearest[i]], expected.values[:5], rtol=1e-3, atol=1e-3)
        assert torch.equal(found.nearest_prediction, memories.own_logits.argmax(1)[found.nearest])


def test_the_make_up_of_components_is_that_of_a_recount(detector, explanation):
    outputs = detector.extractor(torch.cat([x for x, _ in batches(N_FIT, 1)]))
    predicted = outputs.own_logits.argmax(1)
    for name, model in detector.score.models().items():
        component = model.mixture.predict(model.points(outputs))
        expected = torch.zeros(3, 3, dtype=torch.long)
        for k, c in zip(component.tolist(), predicted.tolist(), strict=True):
            expected[k, c] += 1
        assert torch.equal(explanation.mixtures[name].predicted, expected)
        facts = explanation[0].mixtures[name]
        counts = expected[facts.component]
        assert dict(facts.predictions) == {
            c: pytest.approx(int(counts[c]) / int(counts.sum())) for c in range(3) if counts[c]
        }
        assert facts.labels == ()
        assert facts.error_rate is None


def test_it_is_the_same_after_saving_and_loading(its_net, detector, tmp_path):
    detector.component_report([(images(90, 5), torch.arange(90) % 3)])
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", its_net)
    before, after = tensors_of(detector.explain(images(20, 3))), tensors_of(loaded.explain(images(20, 3)))
    assert before.keys() == after.keys()
    assert any("wrong" in key for key in before)
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert str(loaded.explain(images(20, 3))[4]) == str(detector.explain(images(20, 3))[4])


@pytest.mark.parametrize("name", SCORES)
def test_input_that_is_not_finite_is_explained_and_not_raised(name):
    detector = of_score(name)
    x = images(3, 3)
    x[0, 0, 0, 0], x[1] = torch.nan, torch.inf
    explanation = detector.explain(x)
    for key, value in tensors_of(explanation).items():
        if value is not None:
            assert not torch.isnan(value).any(), key
    for mixture in explanation.mixtures.values():
        assert mixture.component[:2].tolist() == [-1, -1]
        assert mixture.component[2] >= 0
        assert (mixture.nearest[:2] == -1).all()
        assert (mixture.contributions[:2] == 0).all()
        assert torch.isinf(mixture.squared_distance[:2]).all()
    assert str(explanation[0]).startswith("Refused")
    if explanation.mixtures:
        assert "not finite" in str(explanation[0])
        assert "not finite" not in str(explanation[2])


@pytest.mark.parametrize("name", [name for name in SCORES if "likelihood" not in name and name != "combined"])
def test_a_score_without_mixtures_says_so(name):
    detector = copy.deepcopy(of_score(name))
    explanation = detector.explain(images(3, 3))
    if not detector.score.models():
        assert explanation.mixtures == {}
        assert explanation.dominant is None
        assert "The score has no mixture" in str(explanation[0])
    assert set(detector.component_report([(images(9, 4), torch.zeros(9, dtype=torch.long))])) == set(
        explanation.mixtures
    )


def test_words_name_classes_layers_statistics_and_views(its_net, detector):
    explanation = detector.explain(images(20, 3), NAMES)
    moments, logits = (explanation.mixtures[name] for name in ("moment_likelihood", "logit_likelihood"))
    names = [moments.name_of(i, NAMES) for i in range(moments.contributions.shape[1])]
    assert names[0] == "norm mean[0], mean of identity and mirror"
    assert names[6] == "norm deviation[0], mean of identity and mirror"
    assert len(set(names)) == len(names)
    assert logits.name_of(5, NAMES) == "log-probability of cat, view mirror"
    assert logits.name_of(5, None) == "log-probability of 2, view mirror"
    words = str(explanation[0])
    assert NAMES[explanation[0].prediction] in words
    assert f"p = {explanation[0].p_value:.2g}" in words
    assert len(explanation) == 20
    assert str(explanation[-1]) == str(explanation[19])
    with pytest.raises(IndexError):
        explanation[20]


def test_it_needs_a_fitted_and_calibrated_detector_and_enough_names(its_net, detector):
    with pytest.raises(NotFittedError, match="call fit"):
        FailureDetector(its_net).explain(images(1, 0))
    with pytest.raises(NotFittedError, match="calibrate"):
        FailureDetector(its_net, n_components=3).fit(batches(100, 0)).explain(images(1, 0))
    with pytest.raises(ValueError, match="class_names: expected 3, one a class; got 2"):
        detector.explain(images(1, 0), NAMES[:2])


def test_it_asks_for_no_gradient_and_works_in_inference_mode(detector):
    x = images(2, 3).requires_grad_()
    outside = tensors_of(detector.explain(x))
    assert not any(value.requires_grad for value in outside.values())
    with torch.inference_mode():
        inside = tensors_of(detector.explain(images(2, 3)))
    for key, value in outside.items():
        torch.testing.assert_close(value, inside[key], msg=key)


def test_a_layer_is_named_where_the_features_are_unusual(detector):
    found = detector.explain(4 * images(5, 4))[0]
    found = dataclasses.replace(found, accept=False, dominant="moment_likelihood")
    assert found.mixtures["moment_likelihood"].layer == "norm"
    assert "more typical there; the largest deviations are at norm)" in str(found)
    alone = dataclasses.replace(found, part_p_values={}, dominant=None)
    assert ". The largest deviations are at norm." in str(alone)


def test_every_part_of_the_default_says_what_it_looks_at():
    assert all(kind.in_words for kind in SCORES.values() if "default_weights" in vars(kind))
