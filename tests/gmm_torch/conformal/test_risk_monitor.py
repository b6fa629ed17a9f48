import json
import math

import pytest
import torch

from gmm_torch.conformal.risk_monitor import BETS, RiskMonitor
from gmm_torch.evaluation.betting import rate_interval

RIGHT = torch.rand(120, generator=torch.Generator().manual_seed(0)) < 0.8
ACCEPTED = torch.arange(200) % 3 > 0


def test_the_first_two_labels_by_hand():
    monitor = RiskMonitor(0.1, jump=0.5)
    monitor.update(torch.tensor([True, True]))
    found = monitor.label(torch.tensor([1, 0]), torch.tensor([False, True]))
    shares = [1 / len(BETS)] * len(BETS)
    total = 0.0
    for wrong in (1, 0):
        parts = [(0.5 * s + 0.5 / len(BETS)) * (1 + b / 0.1 * (wrong - 0.1)) for s, b in zip(shares, BETS, strict=True)]
        total += math.log(sum(parts))
        shares = [part / sum(parts) for part in parts]
    assert found.log_capital == pytest.approx(total)
    assert (found.n_labelled, found.n_wrong) == (2, 1)


def test_labels_of_refused_inputs_do_not_count_and_those_of_unknown_ones_are_an_error():
    monitor = RiskMonitor(0.1)
    assert "no label of an accepted input yet, promises nothing" in repr(monitor)
    monitor.update(ACCEPTED)
    assert monitor.label(torch.tensor([0, 3]), torch.tensor([False, False])).n_labelled == 0
    assert monitor.label(torch.tensor([1]), torch.tensor([False])).n_wrong == 1
    for index, message in ((200, "inputs that were judged, 0 to 199; got 200"), (1, "which has one or came too long")):
        with pytest.raises(ValueError, match=message):
            monitor.label(torch.tensor([index]), torch.tensor([False]))
    assert monitor.record.n_labelled == 1


def test_in_whatever_pieces_and_after_a_pause_it_says_the_same():
    whole, pieces = RiskMonitor(0.1), RiskMonitor(0.1)
    whole.update(ACCEPTED)
    whole.label(torch.arange(120), RIGHT)
    for part in ACCEPTED.split(33):
        pieces.update(part)
    pieces.label(torch.arange(50), RIGHT[:50])
    later = RiskMonitor(0.1)
    later.load_state_dict(json.loads(json.dumps(pieces.state_dict())))
    found = later.label(torch.arange(50, 120), RIGHT[50:])
    assert found.log_capital == pytest.approx(whole.record.log_capital, abs=1e-12)
    assert found.alarm_at == whole.record.alarm_at
    assert found.n_wrong == whole.record.n_wrong


@pytest.mark.parametrize("size", [1, 7, 60])
def test_the_bounds_are_the_tightest_after_any_label_in_whatever_pieces_labels_come(size):
    """Many errors first and none later: the tightest bounds are those of the middle."""
    right = torch.cat([torch.arange(30) % 2 > 0, torch.ones(90, dtype=torch.bool), torch.zeros(10, dtype=torch.bool)])
    whole, pieces = RiskMonitor(0.2), RiskMonitor(0.2)
    for monitor, k in ((whole, 130), (pieces, size)):
        monitor.update(torch.ones(130, dtype=torch.bool))
        for indices in torch.arange(130).split(k):
            monitor.label(indices, right[indices])
    assert pieces.record == whole.record
    assert whole.record.low > rate_interval(25, 105, 0.95)[0]
    assert whole.record.high < rate_interval(25, 105, 0.95)[1]


def test_an_alarm_stays_and_says_at_which_label_it_came():
    monitor = RiskMonitor(0.1, delta=0.01)
    monitor.update(torch.ones(400, dtype=torch.bool))
    found = monitor.label(torch.arange(60), torch.arange(60) % 2 > 0)
    assert found.alarm
    assert 5 < found.alarm_at < 60
    assert found.low > 0.1
    later = monitor.label(torch.arange(60, 400), torch.ones(340, dtype=torch.bool))
    assert later.alarm_at == found.alarm_at
    assert later.low == found.low
    assert later.high < 0.2
    assert f"alarm at label {found.alarm_at}" in repr(monitor)


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="target: expected"):
        RiskMonitor(0.0)
    with pytest.raises(ValueError, match="accepted: expected bool"):
        RiskMonitor(0.1).update(torch.ones(3))
    with pytest.raises(ValueError, match="state: expected one with the same target"):
        RiskMonitor(0.1).load_state_dict(RiskMonitor(0.2).state_dict())
