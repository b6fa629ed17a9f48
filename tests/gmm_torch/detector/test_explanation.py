import copy
import dataclasses
import math

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


def column(found, name):
    return torch.tensor([getattr(each, name) for each in found])


def test_it_holds_the_verdict_and_what_each_part_and_view_says(detector, explanation):
    x = images(20, 3)
    verdict, logits = detector(x), detector.extractor(x).logits
    assert column(explanation, "p_value").tolist() == verdict.p_value.float().tolist()
    assert torch.equal(column(explanation, "accept"), verdict.accept)
    for v, view in enumerate(("identity", "mirror", "blur")):
        expected = logits[:, v].softmax(-1).gather(1, verdict.prediction[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor([each.views[view] for each in explanation]), expected)
    parts = {"mean_log_probability", "moment_likelihood", "logit_likelihood", "augmentation_consistency"}
    for each in explanation:
        assert each.part_p_values.keys() == parts
        assert each.mixtures.keys() == {"moment_likelihood", "logit_likelihood"}
        assert all(0 < p <= 1 for p in each.part_p_values.values())


def test_the_dominant_part_is_the_one_whose_silence_would_raise_the_score_most(detector, explanation):
    outputs = detector.extractor(images(20, 3))
    log_p = detector.score.log_p_values(outputs)
    whole = detector.score(outputs)
    rises = []
    for j in range(log_p.shape[1]):
        silent = log_p.clone()
        silent[:, j] = torch.tensor(0.5).log()
        rises.append(detector.score.join(silent) - whole)
    parts = list(detector.score.weights)
    assert [each.dominant for each in explanation] == [parts[j] for j in torch.stack(rises).argmax(0)]


def test_distances_and_largest_contributions_are_those_of_the_component(detector, explanation):
    outputs = detector.extractor(images(20, 3))
    for name, model in detector.score.models().items():
        found = [each.mixtures[name] for each in explanation]
        points, component = model.points(outputs), column(found, "component")
        assert torch.equal(component, model.mixture.predict(points))
        deviation = points.double() - model.mixture.means.double()[component]
        precisions = torch.linalg.inv(model.mixture.dense_covariances.double())[component]
        expected = torch.einsum("ni,nij,nj->n", deviation, precisions, deviation)
        torch.testing.assert_close(column(found, "squared_distance").double(), expected, rtol=1e-3, atol=1e-3)
        largest = torch.tensor([[share for _, share in each.features] for each in found]).double()
        contributions = model.contributions(outputs, component)
        torch.testing.assert_close(largest, contributions.sort(descending=True).values[:, :5], rtol=1e-6, atol=1e-6)


def test_the_nearest_inputs_are_those_that_a_search_over_all_fitting_inputs_finds(detector, explanation):
    fitting = torch.cat([x for x, _ in batches(N_FIT, 1)])
    outputs, memories = detector.extractor(images(20, 3)), detector.extractor(fitting)
    predicted = memories.own_logits.argmax(1)
    for name, model in detector.score.models().items():
        points, anchors = model.points(outputs).double(), model.points(memories).double()
        precisions = torch.linalg.inv(model.mixture.dense_covariances.double())
        for i, each in enumerate(explanation):
            facts = each.mixtures[name]
            deviation = anchors - points[i]
            distance = ((deviation @ precisions[facts.component]) * deviation).sum(1).clamp_min(0).sqrt()
            expected = distance.sort().values[:5]
            positions, found, classes = (torch.tensor(list(values)) for values in zip(*facts.nearest, strict=True))
            torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(distance[positions], expected, rtol=1e-3, atol=1e-3)
            assert torch.equal(classes, predicted[positions])


def test_the_make_up_of_components_is_that_of_a_recount(detector, explanation):
    outputs = detector.extractor(torch.cat([x for x, _ in batches(N_FIT, 1)]))
    predicted = outputs.own_logits.argmax(1)
    for name, model in detector.score.models().items():
        facts = explanation[0].mixtures[name]
        own = predicted[model.mixture.predict(model.points(outputs)) == facts.component]
        counts = torch.bincount(own, minlength=3)
        assert dict(facts.predictions) == {c: pytest.approx(int(counts[c]) / len(own)) for c in range(3) if counts[c]}
        assert facts.labels == ()
        assert facts.error_rate is None


def test_it_is_the_same_after_saving_and_loading(its_net, detector, tmp_path):
    detector.component_report([(images(90, 5), torch.arange(90) % 3)])
    detector.save(tmp_path / "d.safetensors")
    loaded = FailureDetector.load(tmp_path / "d.safetensors", its_net)
    before, after = detector.explain(images(20, 3)), loaded.explain(images(20, 3))
    assert before == after
    assert any(facts.n_labelled for each in before for facts in each.mixtures.values())
    assert str(after[4]) == str(before[4])


@pytest.mark.parametrize("name", SCORES)
def test_input_that_is_not_finite_is_explained_and_not_raised(name):
    detector = of_score(name)
    x = images(3, 3)
    x[0, 0, 0, 0], x[1] = torch.nan, torch.inf
    explanation = detector.explain(x)
    for each in explanation:
        assert "nan" not in str(dataclasses.astuple(each))
    for found in ([each.mixtures[key] for each in explanation] for key in explanation[0].mixtures):
        assert [facts.component for facts in found[:2]] == [-1, -1]
        assert found[2].component >= 0
        assert found[0].nearest == found[0].features == ()
        assert math.isinf(found[1].squared_distance)
    assert str(explanation[0]).startswith("Refused")
    if explanation[0].mixtures:
        assert "not finite" in str(explanation[0])
        assert "not finite" not in str(explanation[2])


@pytest.mark.parametrize("name", [name for name in SCORES if "likelihood" not in name and name != "combined"])
def test_a_score_without_mixtures_says_so(name):
    detector = copy.deepcopy(of_score(name))
    explanation = detector.explain(images(3, 3))[0]
    if not detector.score.models():
        assert explanation.mixtures == {}
        assert explanation.dominant is None
        assert "The score has no mixture" in str(explanation)
    report = detector.component_report([(images(9, 4), torch.zeros(9, dtype=torch.long))])
    assert report.keys() == explanation.mixtures.keys()


def test_words_name_classes_layers_statistics_and_views(detector):
    x = images(20, 3)
    explanation = detector.explain(x, NAMES, n_features=1000)[0]
    names = {name: [feature for feature, _ in facts.features] for name, facts in explanation.mixtures.items()}
    moments = names["moment_likelihood"]
    assert {"norm mean[0], mean of identity and mirror", "norm deviation[0], mean of identity and mirror"} <= {*moments}
    assert len(set(moments)) == len(moments)
    assert "log-probability of cat, view mirror" in names["logit_likelihood"]
    unnamed = detector.explain(x, n_features=1000)[0].mixtures["logit_likelihood"].features
    assert "log-probability of 2, view mirror" in dict(unnamed)
    assert NAMES[explanation.prediction] in str(explanation)
    assert f"p = {explanation.p_value:.2g}" in str(explanation)


def test_it_needs_a_fitted_and_calibrated_detector_and_enough_names(its_net, detector):
    with pytest.raises(NotFittedError, match="call fit"):
        FailureDetector(its_net).explain(images(1, 0))
    with pytest.raises(NotFittedError, match="calibrate"):
        FailureDetector(its_net, n_components=3).fit(batches(100, 0)).explain(images(1, 0))
    with pytest.raises(ValueError, match="class_names: expected 3, one a class; got 2"):
        detector.explain(images(1, 0), NAMES[:2])


def test_it_is_the_same_in_inference_mode_and_for_inputs_that_ask_for_a_gradient(detector):
    outside = detector.explain(images(2, 3).requires_grad_())
    with torch.inference_mode():
        assert detector.explain(images(2, 3)) == outside


def test_a_layer_is_named_where_the_features_are_unusual(detector):
    found = detector.explain(4 * images(5, 4))[0]
    found = dataclasses.replace(found, accept=False, dominant="moment_likelihood")
    assert found.mixtures["moment_likelihood"].layer == "norm"
    assert "more typical there; the largest deviations are at norm)" in str(found)
    alone = dataclasses.replace(found, part_p_values={}, dominant=None)
    assert ". The largest deviations are at norm." in str(alone)


def test_every_part_of_the_default_says_what_it_looks_at():
    assert all(kind.in_words for kind in SCORES.values() if "default_weights" in vars(kind))
