import json

import pytest
import torch

from tests.trainers.attacks.test_diagnostics import _result
from trainers.evaluation.budget_metrics import ATTACK_FACTS, attack_facts, budget_metrics, verdict_facts


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


def test_a_point_of_a_sweep_has_the_auroc_of_both_scores():
    good, failures = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 3.5])
    softmax = {"max_softmax": (torch.tensor([0.9, 0.8]), torch.tensor([0.95, 0.99]))}
    accept = torch.tensor([False, True])
    found = budget_metrics(_result("pgd", fallen=[3, 4]), good, failures, accept, softmax)
    assert found["auroc"] == pytest.approx(0.75)
    assert found["baselines"] == {"max_softmax": {"auroc": 0.0}}
    assert (found["n"], found["refusal_rate"], found["evasion_rate"]) == (2, 0.5, 0.01)


def test_without_a_success_there_is_nothing_to_compare():
    none = torch.zeros(0)
    baselines = {"max_softmax": (torch.ones(2), none)}
    found = budget_metrics(_result("pgd", fallen=[]), torch.ones(2), none, none.bool(), baselines)
    assert found["auroc"] is None
    assert found["baselines"] == {"max_softmax": {"auroc": None}}
    assert found["evasion_rate"] == 0
    json.dumps(found, allow_nan=False)
