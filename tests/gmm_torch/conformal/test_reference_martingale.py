import json
import math

import pytest
import torch

from gmm_torch.conformal.martingale import gamble
from gmm_torch.conformal.reference_martingale import LEVELS, STAKES, ReferenceMartingale

REFERENCE = torch.randn(200, generator=torch.Generator().manual_seed(0))
CLEAN = torch.randn(80, generator=torch.Generator().manual_seed(1))


def test_payoffs_by_hand_on_average_and_given_the_set():
    n, k = 200, max(1, int(0.2 * 201))
    edge = REFERENCE.sort().values[k - 1]
    scores = torch.stack([edge - 0.001, edge + 0.001, edge - 0.001])
    column = 1 + LEVELS.index(0.2)  # of the smaller stake
    found = ReferenceMartingale(REFERENCE).payoffs(scores)[:, column]
    chances = [k / (n + 1), (k + 1) / (n + 2), (k + 1) / (n + 3)]
    expected = [1 + STAKES[0] * (event / chance - 1) for event, chance in zip((1, 0, 1), chances, strict=True)]
    assert found.tolist() == pytest.approx(expected)
    bound = ReferenceMartingale(REFERENCE, promise="set").payoffs(scores)[:, column]
    assert float(bound[0]) < float(found[0])  # at worse odds
    assert float(bound[0]) == float(bound[2])


@pytest.mark.parametrize("promise", ["average", "set"])
def test_in_whatever_pieces_and_after_a_pause_it_says_the_same(promise):
    stream = torch.cat([CLEAN[:30], CLEAN[:50] - 3]).round(decimals=1)
    reference = REFERENCE.round(decimals=1)  # with ties
    whole = ReferenceMartingale(reference, promise=promise)
    path = whole.update(stream)
    pieces = ReferenceMartingale(reference, promise=promise)
    first = pieces.update(stream[:33])
    later = ReferenceMartingale(reference.flip(0), promise=promise)
    later.load_state_dict(json.loads(json.dumps(pieces.state_dict())))
    second = later.update(stream[33:])
    torch.testing.assert_close(torch.cat([first.log_capital, second.log_capital]), path.log_capital)
    assert second.alarm_at == path.alarm_at
    assert 30 < path.alarm_at < 60
    assert repr(later) == repr(whole)
    assert f"alarm at input {path.alarm_at + 1} among 80" in repr(whole)
    with pytest.raises(ValueError, match="state: expected one with the same fingerprint"):
        ReferenceMartingale(REFERENCE + 1, promise=promise).load_state_dict(whole.state_dict())


def test_both_ends_count_and_what_is_not_a_number_is_the_least_typical():
    for scores in (torch.full((40,), -9.0), torch.full((40,), 9.0), torch.full((40,), torch.nan)):
        assert ReferenceMartingale(REFERENCE).update(scores).alarm
    assert not ReferenceMartingale(REFERENCE).update(CLEAN).alarm


def test_the_memory_does_not_grow_and_a_drift_is_not_got_used_to_given_the_set():
    reference = torch.randn(2000, generator=torch.Generator().manual_seed(2))
    watch = ReferenceMartingale(reference, promise="set")
    size = len(json.dumps(watch.state_dict()))
    stream = torch.randn(900, generator=torch.Generator().manual_seed(3)) - 0.8
    gains = watch.update(stream).log_capital
    assert len(json.dumps(watch.state_dict())) < size + 400
    assert float(gains[-1] - gains[600]) > 0.5 * float(gains[300] - gains[0])
    assert watch.log_maximum == pytest.approx(float(gains.max()))


def test_a_fresh_start_keeps_the_count_of_inputs():
    watch = ReferenceMartingale(REFERENCE)
    watch.update(torch.full((40,), -9.0))
    watch.restart()
    assert watch.alarm_at is None
    assert watch.update(torch.full((40,), -9.0)).alarm_at > 40
    assert watch.update(torch.empty(0)).log_capital.shape == (0,)


def test_a_single_reference_input_and_many_bets_are_fair():
    payoffs = ReferenceMartingale(torch.zeros(1)).payoffs(torch.ones(5))
    assert bool((payoffs > 0).all())
    assert gamble(payoffs).log_path.isfinite().all()


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="reference scores: expected shape"):
        ReferenceMartingale(torch.empty(0))
    with pytest.raises(ValueError, match="expected finite numbers"):
        ReferenceMartingale(torch.tensor([1.0, torch.inf]))
    with pytest.raises(ValueError, match="threshold: expected a capital above 1"):
        ReferenceMartingale(REFERENCE, 0.01)
    with pytest.raises(ValueError, match="promise: expected 'average' or 'set'; got 'both'"):
        ReferenceMartingale(REFERENCE, promise="both")
    with pytest.raises(ValueError, match="scores: expected"):
        ReferenceMartingale(REFERENCE).update(torch.zeros(2, 2))
    assert math.isfinite(float(ReferenceMartingale(REFERENCE).log_capital))
