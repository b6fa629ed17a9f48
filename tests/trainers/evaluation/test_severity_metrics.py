import json

import torch

from trainers.evaluation.severity_metrics import severity_metrics
from trainers.report.tables.budgets import budget_rows, budget_table, epsilon_text, number
from trainers.report.tables.corruptions import corruption_caption, corruption_rows, corruption_table, mean

SCORES = torch.tensor([1.0, 2.0, 3.0, 4.0])
WRONG = torch.tensor([True, True, False, False])
ACCEPT = torch.tensor([False, True, True, True])


def evidence(severity=2, wrong=WRONG, accept=ACCEPT):
    return severity_metrics(severity, SCORES, wrong, accept, {"max_softmax": -SCORES})


def test_rates_are_those_by_hand():
    assert evidence() == {
        "severity": 2,
        "n": 4,
        "error_rate": 0.5,
        "coverage": 0.75,
        "risk": 1 / 3,
        "refusal_rate": 0.5,
        "auroc": 1.0,
        "baselines": {"max_softmax": {"auroc": 0.0}},
    }


def test_what_can_not_be_said_is_none():
    nothing = torch.zeros(4, dtype=torch.bool)
    assert evidence(wrong=nothing)["auroc"] is None
    assert evidence(wrong=nothing)["refusal_rate"] is None
    assert evidence(wrong=~nothing)["baselines"]["max_softmax"]["auroc"] is None
    assert evidence(accept=nothing)["risk"] is None
    json.dumps(evidence(wrong=nothing, accept=nothing), allow_nan=False)


def test_the_table_has_means_over_severities_with_a_value():
    nothing = torch.zeros(4, dtype=torch.bool)
    kinds = {"motion_blur": [evidence(1), evidence(2, accept=nothing)]}
    metrics = {"corruptions": {"clean": evidence(0, wrong=nothing), "kinds": kinds}}
    assert corruption_rows(metrics) == [
        ("none", "0.0", "75.0", "0.0", "–", "–", "–"),
        ("motion blur", "50.0", "37.5", "33.3", "75.0", "100.0", "0.0"),
    ]
    assert corruption_table(metrics).row_count == 2
    assert "the same 4 test images" in corruption_caption(metrics)
    assert mean([None]) is None


def test_the_table_of_a_sweep_has_one_row_a_budget():
    point = {
        "epsilon": 2 / 255, "success_rate": 0.5, "median_linf": 0.0078, "median_l2": None, "seconds_per_image": 0.0123,
        "auroc": 0.9, "baselines": {"max_softmax": {"auroc": None}}, "refusal_rate": 0.25, "evasion_rate": 0.375,
        "n_attacked": 8,
    }  # fmt: skip
    metrics = {"sweeps": {"pgd_sweep": [point, {**point, "epsilon": 0.3}]}}
    rows = budget_rows(metrics)
    assert rows[0] == ("pgd sweep", "2/255", "50.0", "0.0078", "–", "0.012", "90.0", "–", "25.0", "37.5")
    assert rows[1][1] == "0.3"
    assert budget_table(metrics).row_count == 2


def test_budgets_in_words():
    assert [epsilon_text(value) for value in (0.25 / 255, 8 / 255, 0.15, 2.0, None)] == [
        "0.25/255", "8/255", "0.15", "2", "–",
    ]  # fmt: skip
    assert number(0.04999, 2) == "0.05"
