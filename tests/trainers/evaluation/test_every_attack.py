"""An image is found only if every attack on it is."""

import io
import json

import pytest
import torch
from rich.console import Console

from tests.trainers.attacks.test_diagnostics import _result
from tests.trainers.evaluation.records import made_up
from trainers.evaluation.detection_metrics import detection_metrics
from trainers.evaluation.every_attack import every_attack_metrics
from trainers.report.tables.attacks import attack_table, every_attack_line


def together(results, scores, accept, good=(0.0, 1.0)):
    rows = zip(results, scores, accept, strict=True)
    successes = {result.name: made_up(s, accept=torch.tensor(a, dtype=torch.bool)) for result, s, a in rows}
    return every_attack_metrics({result.name: result for result in results}, successes, made_up(good))


def test_an_image_counts_as_found_only_if_all_attacks_that_change_it_are_refused():
    # image 1: refused under both; 2: refused under one, accepted under the other; 3: changed by one alone, refused;
    # 4: changed by one alone, accepted; 90: the second attack was not tried on it
    first = _result("fgsm", fallen=[1, 2, 3, 90])
    second = _result("pgd", fallen=[4, 2, 1], attacked=50)
    scores = [[-3.0, -2.0, -4.0, 9.0], [0.5, 0.25, -1.0]]
    found = together([first, second], scores, [[False, False, False, True], [True, True, False]])
    assert found["attacks"] == ["fgsm", "pgd"]
    assert (found["n_attacked"], found["n"]) == (50, 4)
    assert found["refusal_rate"] == pytest.approx(2 / 4)
    assert found["evasion_rate"] == pytest.approx(2 / 50)
    # the most typical of each image: -1, 0.25, -4, 0.5; good images 0 and 1
    assert found["auroc"] == pytest.approx((2 + 1 + 2 + 1) / 8)
    assert found["baselines"]["max_softmax"]["auroc"] == found["auroc"]
    json.dumps(found, allow_nan=False)


def test_it_is_what_a_loop_over_images_finds():
    generator = torch.Generator().manual_seed(0)
    results, scores, accept = [], [], []
    for name in ("a", "b", "c"):
        fallen = torch.randperm(60, generator=generator)[:40].tolist()
        results.append(_result(name, fallen=fallen, attacked=60))
        scores.append(torch.randn(40, generator=generator).tolist())
        accept.append((torch.rand(40, generator=generator) < 0.3).tolist())
    found = together(results, scores, accept, good=[0.3, 0.8, 1.5])
    by_image: dict[int, list[tuple[float, bool]]] = {}
    for result, values, verdicts in zip(results, scores, accept, strict=True):
        for index, value, verdict in zip(result.index.tolist(), values, verdicts, strict=True):
            by_image.setdefault(index, []).append((value, verdict))
    evaded = sum(any(verdict for _, verdict in each) for each in by_image.values())
    assert found["n"] == len(by_image)
    assert found["refusal_rate"] == pytest.approx(1 - evaded / len(by_image))
    assert found["evasion_rate"] == pytest.approx(evaded / 60)
    best = torch.tensor([max(value for value, _ in each) for each in by_image.values()])
    assert found["auroc"] == pytest.approx(detection_metrics(torch.tensor([0.3, 0.8, 1.5]), best)["auroc"])
    # never better than the worst attack among the same images
    for result, verdicts in zip(results, accept, strict=True):
        assert found["evasion_rate"] >= sum(verdicts) / result.n_attacked


def test_one_attack_is_no_company_and_nothing_to_compare_is_none():
    assert together([_result("pgd", fallen=[1])], [[0.0]], [[True]]) == {}
    none = together([_result("a", fallen=[]), _result("b", fallen=[])], [[], []], [[], []])
    assert (none["n"], none["refusal_rate"], none["evasion_rate"], none["auroc"]) == (0, None, 0.0, None)
    apart = _result("b", fallen=[1])
    nobody = together([_result("a", fallen=[], attacked=0), apart], [[], [0.0]], [[], [True]])
    assert (nobody["n_attacked"], nobody["evasion_rate"], nobody["auroc"]) == (0, None, None)
    lowest = together([_result("a", fallen=[1]), apart], [[-torch.inf], [-torch.inf]], [[False], [False]])
    assert (lowest["refusal_rate"], lowest["auroc"]) == (1.0, 1.0)  # out of the domain of the score


def test_the_table_has_a_row_an_attack_and_one_for_all():
    each = {"n_attacked": 100, "n": 40, "refusal_rate": 0.75, "evasion_rate": 0.1, "auroc": 0.9, "baselines": {}}
    together = {**each, "attacks": ["cw_l2", "pgd"], "n": 50, "refusal_rate": 0.5, "auroc": 0.8}
    metrics = {"sources": {"errors": {}, "adversarial/cw_l2": each, "adversarial/pgd": each}, "every_attack": together}
    assert attack_table(metrics).rows[0] == ("cw l2 attack", "100", "40", "75.0", "10.0", "90.0", "–")
    assert attack_table(metrics).rows[2] == ("every attack", "100", "50", "50.0", "10.0", "80.0", "–")
    assert "Of 100 images that every attack (cw l2, pgd) was tried on, 50 change class" in every_attack_line(metrics)
    assert "50.0 % of these are refused under each attack" in every_attack_line(metrics)
    assert every_attack_line(metrics | {"every_attack": {}}) == ""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(attack_table(metrics).terminal())
    assert "every attack" in console.export_text()
