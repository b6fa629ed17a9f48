import json
import math

import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from trainers.evidence import (
    DETECTION,
    TESTS,
    detection_metrics,
    error_evidence,
    false_alarm_rates,
    holm_correct,
    risk_coverage_evidence,
    source_evidence,
    unit_ranks,
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


def test_unit_ranks_keep_order_and_ties():
    ranks = unit_ranks(torch.tensor([-1e9, 5.0, 5.0, float("inf"), float("-inf")]))
    assert ranks.tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1, 0])
    assert unit_ranks(torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_source_has_every_key_and_every_baseline():
    good, failures = samples()
    found = source_evidence(good, failures, {"max_softmax": (-good, -failures)})
    assert set(found) == {"n", "n_good", *DETECTION, *TESTS, "effect_size", "baselines"}
    assert (found["n"], found["n_good"]) == (70, 300)
    assert found["baselines"]["max_softmax"]["auroc"] == pytest.approx(1 - found["auroc"])
    low, high = found["effect_size"]["interval"]
    assert found["effect_size"]["superiority"] == pytest.approx(found["auroc"])
    assert low < found["auroc"] < high
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("n", "m", "reason"), [(5, 0, "no failures"), (0, 5, "no good inputs"), (0, 0, "no good")])
def test_an_empty_side_is_null_with_a_reason_never_nan(n, m, reason):
    good, failures = torch.zeros(n), torch.zeros(m)
    found = source_evidence(good, failures, {"max_softmax": (good, failures)})
    assert reason in found["reason"]
    assert all(found[key] is None for key in (*DETECTION, *TESTS, "effect_size"))
    assert found["baselines"]["max_softmax"] == dict.fromkeys(DETECTION)
    assert "NaN" not in json.dumps(found, allow_nan=False)


def test_one_failure_is_enough():
    found = source_evidence(torch.arange(20.0), torch.tensor([-1.0]), {})
    assert found["auroc"] == 1
    assert found["mann_whitney_p"] == pytest.approx(1 / 21)


def test_a_baseline_of_other_inputs_is_refused():
    with pytest.raises(ValueError, match="'softmax' must score the same inputs"):
        source_evidence(torch.zeros(3), torch.zeros(2), {"softmax": (torch.zeros(3), torch.zeros(3))})


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        source_evidence(torch.tensor([1.0, math.nan]), torch.zeros(2), {})


def test_the_errors_have_risk_coverage_for_ours_and_the_baselines():
    scores, wrong = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([False, True, False, True])
    found = error_evidence(scores, wrong, {"max_softmax": -scores})
    assert found["auroc"] == pytest.approx(3 / 4)
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found["baselines"]["max_softmax"]["aurc"] == pytest.approx((1 + 1 / 2 + 2 / 3 + 1 / 2) / 4)
    assert found["baselines"]["max_softmax"]["auroc"] == pytest.approx(1 / 4)


def test_no_errors_have_an_area_of_zero_and_no_auroc():
    found = error_evidence(torch.arange(5.0), torch.zeros(5, dtype=torch.bool), {"max_softmax": torch.ones(5)})
    assert (found["n"], found["auroc"], found["aurc"], found["augrc"]) == (0, None, 0, 0)
    assert risk_coverage_evidence(torch.arange(5.0), torch.zeros(5))["baselines"] == {}


def test_false_alarms_are_counted_with_their_exact_interval():
    found = false_alarm_rates(torch.tensor([0.005, 0.05, 0.06, 0.5] + [0.9] * 16))
    assert found["false_alarm_rate"] == {"0.01": 1 / 20, "0.05": 2 / 20, "0.1": 3 / 20}
    low, high = found["false_alarm_interval"]["0.05"]  # Clopper-Pearson: quantiles of beta distributions
    assert low == pytest.approx(stats.beta.ppf(0.025, 2, 19))
    assert high == pytest.approx(stats.beta.ppf(0.975, 3, 18))


@pytest.mark.parametrize("p_values", [torch.zeros(0), torch.tensor([0.5, math.nan]), torch.tensor([1.5])])
def test_what_is_no_p_value_is_refused(p_values):
    with pytest.raises(ValueError, match="p_values must be"):
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
