"""Scores for wrong predictions, against their definitions; and what labels of calibration inputs add."""

import numpy as np
import pytest
import torch
from scipy import stats

from gmm_torch.detector import FailureDetector, Features
from gmm_torch.errors import LabelsWarning
from gmm_torch.scores import make_score
from gmm_torch.scores.labelled_combined import LabelledCombined
from gmm_torch.scores.right_wrong_ratio import RightWrongRatio, log_ratio_direction
from tests.gmm_torch.conftest import batches, images


def of_logits(logits, labels=None):
    """One view, unless the logits have an axis for views."""
    logits = logits if logits.dim() == 3 else logits[:, None]
    return Features(logits, {"z": logits}, labels)


# ---- right against wrong


def uncertain(n, seed, views=3):
    """Logits of views, and labels drawn from the mean softmax of all views: one view alone knows less."""
    generator = torch.Generator().manual_seed(seed)
    truth = 2.5 * torch.randn(n, 1, 4, generator=generator)
    logits = truth + torch.randn(n, views, 4, generator=generator)
    labels = torch.multinomial(truth[:, 0].softmax(1), 1, generator=generator)[:, 0]
    return of_logits(logits, labels)


def ratio_of(n, seed=1):
    score = RightWrongRatio(keep=0).build({"z": 4}, 3, 4).fit(uncertain(500, 0), None)
    return learned(score, uncertain(n, seed))


def wrong_of(outputs):
    return outputs.labels != outputs.own_logits.argmax(1)


def learned(score, outputs):
    return score.set_reference(score.statistics(outputs), wrong_of(outputs))


def area(score, outputs):
    wrong = wrong_of(outputs)
    return stats.mannwhitneyu(score[~wrong].numpy(), score[wrong].numpy()).statistic / int(wrong.sum() * (~wrong).sum())


def test_the_direction_is_that_of_two_normal_distributions_where_there_are_many_wrong_predictions():
    generator = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.4, 0.0], [0.4, 1.0, -0.3], [0.0, -0.3, 1.0]])
    means = np.array([0.7, 0.1, -0.5])
    n = 200_000
    z = np.concatenate(
        [generator.multivariate_normal(means, covariance, n), generator.multivariate_normal(0 * means, covariance, n)]
    )
    found = log_ratio_direction(torch.from_numpy(z), torch.arange(2 * n) >= n).numpy()
    np.testing.assert_allclose(found, np.linalg.solve(covariance + 0.1 * np.eye(3), means), atol=0.01)


def test_few_wrong_predictions_leave_certainty_in_charge_and_the_sign_is_never_turned():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 4, generator=generator)
    wrong = torch.arange(200) < 2
    z[wrong, 0] = 3  # both are very sure
    found = log_ratio_direction(z, wrong)
    assert found[0] > 0
    assert found[1:].abs().max() < found[0] / 2


@pytest.mark.parametrize(("n", "allowed"), [(30, 0.02), (100, 0.015), (1000, 0.003)])
def test_labels_never_cost_much_and_gain_with_their_number(n, allowed):
    """Of ten draws the worst; the seeds are fixed."""
    test = uncertain(4000, 99)
    before = make_score("mean_log_probability", keep=0).build({}, 3, 4).fit(test, None)(test)
    with_labels = [area(ratio_of(n, seed)(test), test) for seed in range(1, 11)]
    assert min(with_labels) > area(before, test) - allowed
    softmax = area(make_score("max_softmax")(test), test)
    assert min(with_labels) > softmax


def test_the_order_is_that_of_certainty_without_wrong_predictions_and_a_warning_says_why():
    test = uncertain(200, 2)
    score = RightWrongRatio().build({"z": 4}, 3, 4).fit(uncertain(500, 0), None)
    certainty = score.mean_log_probability(test)
    expected = certainty.argsort().tolist()
    assert score(test).argsort().tolist() == expected
    outputs = uncertain(300, 1)
    for labels in (outputs.own_logits.argmax(1), (outputs.own_logits.argmax(1) + 1) % 4):
        with pytest.warns(LabelsWarning, match=r"got (0|300) wrong of 300: the classifier's certainty decides"):
            learned(score, outputs._replace(labels=labels))
        assert score(test).argsort().tolist() == expected


def test_labels_that_are_missing_or_no_classes_are_refused(net):
    with pytest.raises(ValueError, match="weights: expected mean_log_probability among them"):
        LabelledCombined(weights={"moment_likelihood": 1.0})
    for score in (RightWrongRatio(), LabelledCombined(n_components=1)):
        detector = FailureDetector(net, score=score).fit(batches(300, 1))
        with pytest.raises(ValueError, match="labels: expected classes 0 to 2; got -1 to"):
            detector.calibrate([(x, y.index_fill(0, torch.tensor([3]), -1)) for x, y in labelled(net, 300, 2)])
        with pytest.raises(ValueError, match=r"got inputs without: give batches \(x, label, ...\)"):
            detector.calibrate([x for x, _ in batches(300, 2)])
        with pytest.raises(ValueError, match=r"labels: expected \(300,\); got none"):
            detector.calibrate(detector.statistics(batches(300, 2)))


# ---- the default with labels


def labelled(net, n, seed, noise_of_labels=0.2):
    """Batches whose labels are the predictions, but for a share."""
    x = images(n, seed)
    with torch.no_grad():
        predicted = net.eval()(x).argmax(1)
    generator = torch.Generator().manual_seed(seed)
    other = torch.randint(1, 3, (n,), generator=generator)
    is_wrong = torch.rand(n, generator=generator) < noise_of_labels
    return list(zip(x.split(64), torch.where(is_wrong, (predicted + other) % 3, predicted).split(64), strict=True))


def test_the_default_learns_from_labels_at_calibration_alone(net):
    taught = FailureDetector(net, score=LabelledCombined(n_components=2)).fit(batches(300, 1))
    without = FailureDetector(net, score=LabelledCombined(n_components=2)).fit([x for x, _ in batches(300, 1)])
    x = images(50, 3)
    for detector in (taught, without):
        detector.calibrate(labelled(net, 600, 2))
    assert torch.equal(taught(x).score, without(x).score)
    other = taught(x).score
    taught.calibrate(labelled(net, 600, 4))
    assert not torch.equal(taught(x).score, other)
    taught.calibrate(labelled(net, 600, 2))  # nothing is left of what was learned in between
    assert torch.equal(taught(x).score, without(x).score)


def test_the_reference_is_ranked_by_the_ratio_that_was_learned_from_it(net):
    detector = FailureDetector(net, score=LabelledCombined(n_components=2)).fit(batches(300, 1))
    detector.calibrate(labelled(net, 300, 2))
    score, x = detector.score, images(300, 1)
    outputs = detector.features([x])
    held_out = score.ratio(outputs.rows(outputs.shuffled()[:60]))
    of_parts = score.references[list(score.weights).index("mean_log_probability")]
    assert len(of_parts) == 160  # a third of 300, and the fitting inputs that were held out
    nearest = (held_out[:, None] - of_parts).abs().amin(1)
    assert nearest.max() < 1e-3


def test_labels_say_what_other_parts_cost_with_a_share_that_grows_with_wrong_predictions():
    score = LabelledCombined()
    n_parts = len(score.weights)
    certainty, wrong = torch.tensor([0.9, 0.8, 0.6, 0.7]).log(), torch.tensor([False, True, True])
    statistics = torch.zeros(4, n_parts + 5)
    statistics[:, n_parts] = certainty
    share = 2 / (2 + 20)  # of two wrong predictions
    expected = torch.tensor([share + (1 - share) * 0.9, (1 - share) * 0.8, (1 - share) * 0.6, 0.7])
    torch.testing.assert_close(score.probability_right(statistics, wrong), expected.double(), rtol=1e-6, atol=1e-6)


def test_states_and_files_keep_what_labels_taught(net, tmp_path):
    detector = FailureDetector(net, score=LabelledCombined(n_components=2)).fit(batches(300, 1))
    detector.calibrate(labelled(net, 300, 2))
    detector.save(tmp_path / "d.safetensors")
    x = images(50, 3)
    again = FailureDetector.load(tmp_path / "d.safetensors", net.eval())
    assert torch.equal(again(x).p_value, detector(x).p_value)
    for each in (again, detector):
        each.calibrate(labelled(net, 90, 5))
    assert torch.equal(again(x).p_value, detector(x).p_value)
