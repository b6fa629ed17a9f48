import json

import torch

from tests.trainers.evaluation.records import made_up
from trainers.evaluation.corruptions import severity_metrics
from trainers.report.tables.corruptions import corruption_table, mean

SCORES = torch.tensor([1.0, 2.0, 3.0, 4.0])
RIGHT = torch.arange(20) + 0.5  # of images that are not corrupted: 19 of 20 are above 1
WRONG = torch.tensor([True, True, False, False])
ACCEPT = torch.tensor([False, True, True, True])


def measured(severity=2, wrong=WRONG, accept=ACCEPT):
    records = made_up(SCORES, prediction=wrong.long(), accept=accept, max_softmax=-SCORES)
    return severity_metrics(severity, records, made_up(RIGHT))


def test_rates_are_those_by_hand():
    assert measured() == {
        "severity": 2,
        "n": 4,
        "error_rate": 0.5,
        "coverage": 0.75,
        "risk": 1 / 3,
        "refusal_rate": 0.5,
        "fpr_at_95_clean_tpr": 0.5,
        "auroc": 1.0,
        "baselines": {"max_softmax": {"auroc": 0.0}},
    }


def test_what_can_not_be_said_is_none():
    nothing = torch.zeros(4, dtype=torch.bool)
    assert measured(wrong=nothing)["auroc"] is None
    assert measured(wrong=nothing)["refusal_rate"] is None
    assert measured(wrong=nothing)["fpr_at_95_clean_tpr"] is None
    none_right = severity_metrics(1, made_up(SCORES, prediction=WRONG.long()), made_up(RIGHT[:0]))
    assert none_right["fpr_at_95_clean_tpr"] is None
    assert measured(wrong=~nothing)["baselines"]["max_softmax"]["auroc"] is None
    assert measured(accept=nothing)["risk"] is None
    json.dumps(measured(wrong=nothing, accept=nothing), allow_nan=False)


def test_the_table_has_means_over_severities_with_a_value():
    nothing = torch.zeros(4, dtype=torch.bool)
    kinds = {"motion_blur": [measured(1), measured(2, accept=nothing)]}
    metrics = {"corruptions": {"clean": measured(0, wrong=nothing), "kinds": kinds}}
    assert corruption_table(metrics).rows == [
        ("none", "0.0", "75.0", "0.0", "–", "–", "–"),
        ("motion blur", "50.0", "37.5", "33.3", "75.0", "100.0", "0.0"),
    ]
    assert corruption_table(metrics).terminal().row_count == 2
    assert "the same 4 test images" in corruption_table(metrics).caption
    assert mean([None]) is None
