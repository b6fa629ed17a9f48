import numpy as np
import pytest
import torch
from scipy import stats

from gmm_torch import FailureDetector, NotFittedError
from gmm_torch.detector.component_report import Confusion, component_report
from tests.gmm_torch.conftest import batches, images


def labelled(n, seed, size=32):
    labels = torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed))
    return list(zip(images(n, seed).split(size), labels.split(size), strict=True)), labels


@pytest.fixture
def detector(net):
    return FailureDetector(net, n_components=3).fit(batches(300, 1)).calibrate(batches(200, 2))


def test_every_number_is_that_of_a_recount(detector):
    loader, labels = labelled(150, 7)
    found = detector.component_report(loader)
    assert set(found) == {"moment_likelihood", "logit_likelihood"}
    outputs = detector.extractor(images(150, 7))
    prediction = outputs.own_logits.argmax(1)
    for name, model in detector.score.models().items():
        component = model.mixture.predict(model.points(outputs))
        assert found[name].n == 150
        assert found[name].n_errors == int((prediction != labels).sum())
        assert sorted(each.component for each in found[name].components) == [0, 1, 2]
        rates = [each.error_rate for each in found[name].components if each.error_rate is not None]
        assert rates == sorted(rates, reverse=True)
        for each in found[name].components:
            rows = component == each.component
            wrong = rows & (prediction != labels)
            assert (each.n, each.n_errors) == (int(rows.sum()), int(wrong.sum()))
            if each.n:
                expected = stats.binomtest(each.n_errors, each.n).proportion_ci(0.95, method="exact")
                assert each.interval == pytest.approx((expected.low, expected.high))
            for c, share in each.predictions:
                assert share == pytest.approx(float((prediction[rows] == c).double().mean()))
            for confusion in each.confusions:
                assert confusion.n == int(
                    (wrong & (labels == confusion.label) & (prediction == confusion.prediction)).sum()
                )
            assert sum(confusion.n for confusion in each.confusions) == each.n_errors


def test_explanations_know_the_error_rates_from_then_on_and_verdicts_do_not_change(detector):
    x = images(10, 3)
    before = detector(x).p_value
    found = detector.component_report(labelled(150, 7)[0])
    assert torch.equal(detector(x).p_value, before)
    explanation = detector.explain(x)
    for name, report in found.items():
        by_number = {each.component: each for each in report.components}
        for i in range(10):
            facts = explanation[i].mixtures[name]
            summary = by_number[facts.component]
            assert (facts.n_labelled, facts.n_errors) == (summary.n, summary.n_errors)
            assert facts.error_rate == summary.error_rate
            assert facts.error_interval == summary.interval
    assert "labelled inputs are predicted wrongly" in "\n".join(str(explanation[i]) for i in range(10))
    fewer = detector.component_report(labelled(30, 8)[0])
    assert fewer["moment_likelihood"].n == 30
    counts = {
        facts.component: facts.n_labelled for facts in (e.mixtures["moment_likelihood"] for e in detector.explain(x))
    }
    assert 0 < sum(counts.values()) <= 30


def test_one_bad_component_is_found_and_named():
    component = torch.arange(400) % 4
    label = torch.arange(400) % 3
    prediction = label.clone()
    bad = (component == 2) & (label == 1)
    prediction[bad] = 0
    found = component_report(component, prediction, label, 5)
    assert found.components[0].component == 2
    assert found.components[0].confusions == (Confusion(1, 0, int(bad.sum())),)
    assert found.components[-1].component == 4
    assert found.components[-1].error_rate is None
    assert found.components[-1].interval == (0, 1)
    assert found.difference_p == 1e-4  # the smallest that 9,999 permutations can give
    assert "is > was 33" in found.table(["was", "is", "else"])
    assert str(found).count("\n") == 5  # heading, four components with inputs, and the test


def test_the_p_value_of_no_difference_is_uniform():
    random = np.random.default_rng(0)
    p = []
    for _ in range(200):
        component, label = random.integers(0, 4, 200), random.integers(0, 2, 200)
        prediction = np.where(random.random(200) < 0.3, 1 - label, label)
        p.append(component_report(*(torch.from_numpy(v) for v in (component, prediction, label)), 4).difference_p)
    # P(p <= a) <= a: a one-sided Kolmogorov-Smirnov test at 0.001, and not far below
    assert stats.kstest(p, "uniform", alternative="greater").pvalue > 0.001
    assert stats.kstest(p, "uniform", alternative="less").pvalue > 1e-6


def test_wrong_input_is_refused_in_words(net, detector):
    with pytest.raises(NotFittedError, match="call fit"):
        FailureDetector(net).component_report(labelled(3, 0)[0])
    with pytest.raises(ValueError, match="got inputs without: give batches"):
        detector.component_report([images(3, 0)])
    with pytest.raises(ValueError, match=r"labels: expected integers \(3,\); got torch.float32"):
        detector.component_report([(images(3, 0), torch.zeros(3))])
    with pytest.raises(ValueError, match="expected classes 0 to 2; got -1 to 1: leave"):
        detector.component_report([(images(3, 0), torch.tensor([0, -1, 1]))])
    with pytest.raises(ValueError, match="at least one batch"):
        detector.component_report([])
    three, one = torch.zeros(3, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    for prediction, label in ((one, three), (three, one), (three[:, None], three)):
        with pytest.raises(ValueError, match=r"predictions and labels: expected one per component, shape \(3,\); got"):
            component_report(three, prediction, label, 2)
