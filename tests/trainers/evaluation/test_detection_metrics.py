import json
import math

import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from gmm_torch.evaluation.hypothesis_tests import compare_within, holm
from tests.trainers.evaluation.records import made_up
from trainers.evaluation.detection_metrics import (
    DETECTION,
    TESTS,
    class_false_alarms,
    detection_metrics,
    error_metrics,
    error_rate_metrics,
    false_alarm_rates,
    holm_correct,
    source_metrics,
    within_class_metrics,
)


def samples(n=300, m=70, scale=100.0, shift=500.0):
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(n, generator=generator) * scale - shift
    return good.round(), (torch.randn(m, generator=generator) * scale - shift - scale).round()


def test_log_likelihoods_far_below_zero_keep_their_order():
    good, failures = samples()
    truth = torch.cat([torch.ones(300), torch.zeros(70)])
    scores = torch.cat([good, failures])
    found = detection_metrics(good, failures)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert found["aupr_in"] == pytest.approx(average_precision_score(truth, scores))
    assert found["aupr_out"] == pytest.approx(average_precision_score(1 - truth, -scores))


def test_a_source_has_every_key_and_every_baseline():
    good, failures = samples()
    accept = torch.arange(70) >= 7
    found = source_metrics(made_up(good, max_softmax=-good), made_up(failures, max_softmax=-failures, accept=accept))
    assert found["refused"] == pytest.approx(0.1)
    assert set(found) == {"n", "n_good", "refused", *DETECTION, *TESTS, "effect_size", "auroc_difference", "baselines"}
    assert (found["n"], found["n_good"]) == (70, 300)
    assert found["baselines"]["max_softmax"]["auroc"] == pytest.approx(1 - found["auroc"])
    low, high = found["effect_size"]["interval"]
    assert found["effect_size"]["superiority"] == pytest.approx(found["auroc"])
    assert low < found["auroc"] < high
    assert found["auroc_difference"]["difference"] == pytest.approx(2 * found["auroc"] - 1)
    low, high = found["auroc_difference"]["interval"]
    assert 0 < low < 2 * found["auroc"] - 1 < high
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("n", "m", "reason"), [(5, 0, "no failures"), (0, 5, "no good inputs"), (0, 0, "no good")])
def test_an_empty_side_is_null_with_a_reason_never_nan(n, m, reason):
    good, failures = torch.zeros(n), torch.zeros(m)
    found = source_metrics(made_up(good), made_up(failures))
    assert reason in found["reason"]
    assert all(found[key] is None for key in ("refused", *DETECTION, *TESTS, "effect_size", "auroc_difference"))
    assert found["baselines"]["max_softmax"] == dict.fromkeys(DETECTION)
    assert "NaN" not in json.dumps(found, allow_nan=False)


def test_one_failure_is_enough():
    found = source_metrics(made_up(torch.arange(20.0)), made_up([-1.0]))
    assert found["auroc"] == 1
    assert found["mann_whitney_p"] == pytest.approx(1 / 21)


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        source_metrics(made_up([1.0, math.nan]), made_up([0.0, 0.0]))


def test_the_errors_have_risk_coverage_for_ours_and_the_baselines():
    scores, wrong = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([False, True, False, True])
    found = error_metrics(made_up(scores, prediction=wrong.long(), max_softmax=-scores, p_value=scores / 4))
    assert found["auroc"] == pytest.approx(3 / 4)
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found["baselines"]["max_softmax"]["aurc"] == pytest.approx((1 + 1 / 2 + 2 / 3 + 1 / 2) / 4)
    assert found["baselines"]["max_softmax"]["auroc"] == pytest.approx(1 / 4)


def labelled(n=600, seed=0, shift=0.8):
    """Scores, errors, p-values and predicted classes; errors are `shift` lower and rarer for larger p-values."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(4, (n,), generator=generator)
    p = torch.rand(n, generator=generator)
    wrong = torch.rand(n, generator=generator) < 0.3 * (1 - p)
    return torch.randn(n, generator=generator) - shift * wrong, wrong, p, prediction


def test_the_errors_are_compared_within_predicted_classes():
    scores, wrong, _, prediction = labelled()
    found = within_class_metrics(scores, wrong, prediction)
    direct = compare_within(scores, wrong, prediction)
    assert found["van_elteren_p"] == direct.van_elteren_p < 1e-6
    assert found["permutation_p"] == 1 / 1000
    low, high = found["interval"]
    assert low < found["superiority"] < high
    assert [each["name"] for each in found["classes"]] == [0, 1, 2, 3]
    assert found["classes"][2]["n_failures"] == int((wrong & (prediction == 2)).sum())
    json.dumps(found, allow_nan=False)
    # an offset of a whole class makes no difference
    shifted = within_class_metrics(scores + 5 * prediction, wrong, prediction)
    assert shifted["superiority"] == pytest.approx(found["superiority"])


def test_classes_that_are_all_wrong_or_all_right_have_nothing_to_compare():
    prediction = torch.tensor([0, 0, 1, 1])
    found = within_class_metrics(torch.arange(4.0), prediction == 1, prediction)
    assert found["reason"] == "no predicted class has both wrong and right predictions"
    assert found["van_elteren_p"] is None
    assert found["classes"] == []


def test_the_error_rate_is_given_by_p_value_with_both_tests():
    _, wrong, p, _ = labelled()
    found = error_rate_metrics(p, wrong)
    assert sum(each["n"] for each in found["bins"]) == 600
    assert sum(each["n_errors"] for each in found["bins"]) == int(wrong.sum())
    for each in found["bins"]:
        low, high = each["interval"]
        assert low <= each["rate"] <= high
    assert found["trend_p"] < 1e-4
    assert found["rise_p"] > 0.05
    json.dumps(found, allow_nan=False)


def test_p_values_in_one_bin_show_no_trend_and_say_so():
    found = error_rate_metrics(torch.ones(5), torch.tensor([1, 0, 0, 0, 0]))
    assert (found["trend_p"], found["rise_p"], found["reason"]) == (None, None, "all p-values are in one bin")
    assert found["bins"][0]["rate"] is None


def test_all_tests_of_the_errors_are_corrected_with_those_of_the_table():
    scores, wrong, p, prediction = labelled(shift=0.1)
    errors = error_metrics(made_up(scores, prediction=prediction, label=prediction + wrong, p_value=p))
    other = source_metrics(made_up(scores[~wrong]), made_up(scores[wrong]))
    found = holm_correct({"errors": errors, "ood/x": other})
    places = [
        (part, test)
        for part in (found["errors"], found["errors"]["within_class"], found["errors"]["error_rate"], found["ood/x"])
        for test in (*TESTS, "permutation_p", "van_elteren_p", "trend_p", "rise_p")
        if test in part
    ]
    assert len(places) == 9
    assert [part[f"{test}_holm"] for part, test in places] == holm([part[test] for part, test in places])
    assert "trend_p_holm" not in errors["error_rate"]


def test_no_errors_have_an_area_of_zero_and_no_auroc():
    classes = torch.arange(5)
    found = error_metrics(made_up(torch.arange(5.0), prediction=classes, label=classes, p_value=torch.rand(5)))
    assert (found["n"], found["auroc"], found["aurc"], found["augrc"]) == (0, None, 0, 0)
    assert found["permutation_p"] is None
    assert found["within_class"]["superiority"] is None
    assert "no predicted class" in found["within_class"]["reason"]
    assert found["error_rate"]["trend_p"] == 1
    json.dumps(found, allow_nan=False)


def test_false_alarms_are_counted_with_their_exact_interval():
    found = false_alarm_rates(torch.tensor([0.005, 0.05, 0.06, 0.5] + [0.9] * 16))
    assert found["false_alarm_rate"] == {"0.01": 1 / 20, "0.05": 2 / 20, "0.1": 3 / 20}
    low, high = found["false_alarm_interval"]["0.05"]  # Clopper-Pearson: quantiles of beta distributions
    assert low == pytest.approx(stats.beta.ppf(0.025, 2, 19))
    assert high == pytest.approx(stats.beta.ppf(0.975, 3, 18))


def test_false_alarms_are_counted_by_predicted_class():
    prediction = torch.arange(400) % 4
    p = torch.where((prediction == 2) & (torch.arange(400) % 8 == 2), 0.05, 0.9)
    found = class_false_alarms(p, prediction)
    assert [each["n_refused"] for each in found["classes"]] == [0, 0, 50, 0]
    assert found["classes"][2]["rate"] == 0.5
    assert found["homogeneity_p"] == 1 / 10_000
    assert class_false_alarms(torch.ones(8), torch.arange(8) % 2)["homogeneity_p"] == 1
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("p_values", [torch.zeros(0), torch.tensor([0.5, math.nan]), torch.tensor([1.5])])
def test_what_is_no_p_value_is_refused(p_values):
    with pytest.raises(ValueError, match="p-values: expected"):
        false_alarm_rates(p_values)


def test_holm_corrects_over_all_tests_of_the_table_and_skips_the_missing():
    sources = {
        "a": {"mann_whitney_p": 0.01, "ks_p": 0.03},
        "b": {"mann_whitney_p": None, "ks_p": None},
        "c": {"mann_whitney_p": 0.02, "ks_p": 0.5},
    }
    found = holm_correct(sources)
    assert found["a"]["mann_whitney_p_holm"] == pytest.approx(0.04)
    assert found["a"]["ks_p_holm"] == pytest.approx(0.06)
    assert found["c"]["mann_whitney_p_holm"] == pytest.approx(0.06)
    assert found["c"]["ks_p_holm"] == pytest.approx(0.5)
    assert found["b"] == {
        "mann_whitney_p": None,
        "ks_p": None,
        "mann_whitney_p_holm": None,
        "ks_p_holm": None,
    }
    assert "mann_whitney_p_holm" not in sources["a"]
