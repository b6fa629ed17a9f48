import json

import pytest
import torch

from tests.trainers.attacks.test_diagnostics import _result
from tests.trainers.evaluation.records import made_up
from trainers.evaluation.attacks import ATTACK_FACTS, attack_facts, budget_metrics, verdict_facts
from trainers.report.tables.attacks import budget_table
from trainers.report.tables.text import epsilon_text, number


def test_facts_are_those_of_the_attack():
    facts = attack_facts(_result("pgd", fallen=range(30), median=0.1))
    assert set(facts) == set(ATTACK_FACTS)
    assert facts["success_rate"] == 0.3
    assert facts["seconds_per_image"] == 0.01
    json.dumps(facts, allow_nan=False)


def test_verdicts_count_among_successes_and_among_attacked_images():
    found = verdict_facts(torch.tensor([True, False, False, False]), 10)
    assert found == {"refusal_rate": 0.75, "evasion_rate": 0.1}
    assert verdict_facts(torch.zeros(0, dtype=torch.bool), 10) == {"refusal_rate": None, "evasion_rate": 0.0}
    assert verdict_facts(torch.zeros(0, dtype=torch.bool), 0) == {"refusal_rate": None, "evasion_rate": None}


def test_a_point_of_a_curve_has_the_auroc_of_both_scores():
    right = made_up([3.0, 4.0], max_softmax=[0.9, 0.8])
    successes = made_up([1.0, 3.5], max_softmax=[0.95, 0.99], accept=[False, True])
    found = budget_metrics(_result("pgd", fallen=[3, 4]), right, successes)
    assert found["auroc"] == pytest.approx(0.75)
    assert found["baselines"] == {"max_softmax": {"auroc": 0.0}}
    assert (found["n"], found["refusal_rate"], found["evasion_rate"]) == (2, 0.5, 0.01)


def test_without_a_success_there_is_nothing_to_compare():
    found = budget_metrics(_result("pgd", fallen=[]), made_up([1.0, 1.0]), made_up([]))
    assert found["auroc"] is None
    assert found["baselines"] == {"max_softmax": {"auroc": None}}
    assert found["evasion_rate"] == 0
    json.dumps(found, allow_nan=False)


def test_the_table_of_a_curve_has_one_row_a_budget():
    point = {
        "epsilon": 2 / 255, "success_rate": 0.5, "median_linf": 0.0078, "median_l2": None, "seconds_per_image": 0.0123,
        "auroc": 0.9, "baselines": {"max_softmax": {"auroc": None}}, "refusal_rate": 0.25, "evasion_rate": 0.375,
        "n_attacked": 8,
    }  # fmt: skip
    metrics = {"sweeps": {"pgd_sweep": [point, {**point, "epsilon": 0.3}]}}
    rows = budget_table(metrics).rows
    assert rows[0] == ("pgd sweep", "2/255", "50.0", "0.0078", "–", "0.012", "90.0", "–", "25.0", "37.5")
    assert rows[1][1] == "0.3"
    assert budget_table(metrics).terminal().row_count == 2


def test_budgets_in_words():
    assert [epsilon_text(value) for value in (0.25 / 255, 8 / 255, 0.15, 2.0, None)] == [
        "0.25/255", "8/255", "0.15", "2", "–",
    ]  # fmt: skip
    assert number(0.04999, 2) == "0.05"
