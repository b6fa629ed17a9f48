import json

import pytest
import torch

from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.conformal.time_windows import TimeWindows

REFERENCE = torch.randn(200, generator=torch.Generator().manual_seed(0))
SCORES = torch.cat([torch.randn(60, generator=torch.Generator().manual_seed(1)), torch.full((40,), -9.0)])
TIMES = torch.linspace(1000.0, 1399.0, 100, dtype=torch.float64)  # 4 s apart


def windows(keep=1000):
    return TimeWindows(ReferenceMartingale(REFERENCE), 100, keep)


def test_each_window_has_a_bet_of_its_own():
    watch = windows()
    found = watch.update(SCORES, TIMES)
    assert found == watch.windows
    assert [window.start for window in found] == [1000, 1100, 1200, 1300]
    assert sum(window.n for window in found) == 100
    assert [window.alarm_at is not None for window in found] == [False, False, True, True]
    assert 60 < found[2].alarm_at < 80
    inside = (TIMES >= 1300).nonzero()[:, 0]
    assert inside[0] < found[3].alarm_at <= inside[-1]
    alone = ReferenceMartingale(REFERENCE)
    alone.update(SCORES[inside])
    assert found[3].log_maximum == pytest.approx(alone.log_maximum)


def test_in_whatever_pieces_and_after_a_pause_it_says_the_same():
    whole, pieces = windows(), windows()
    whole.update(SCORES, TIMES)
    for scores, times in zip(SCORES[:70].split(9), TIMES[:70].split(9), strict=True):
        pieces.update(scores, times)
    later = windows()
    later.load_state_dict(json.loads(json.dumps(pieces.state_dict())))
    later.update(SCORES[70:], TIMES[70:])
    assert [window[:3] for window in later.windows] == [window[:3] for window in whole.windows]
    assert "2 of 4 with an alarm" in repr(later)


def test_old_windows_are_forgotten_and_empty_ones_do_not_appear():
    for keep in (1, 2):
        watch = windows(keep)
        watch.update(SCORES, TIMES)
        assert [window.start for window in watch.windows] == [1200.0, 1300.0][2 - keep :]
    watch = windows()
    watch.update(SCORES[:2], torch.tensor([0.0, 950.0]))
    assert [window.start for window in watch.windows] == [0, 900]
    assert watch.update(SCORES[:0], TIMES[:0]) == []


def test_a_clock_that_runs_backwards_is_an_error_and_changes_nothing():
    watch = windows()
    watch.update(SCORES[:50], TIMES[:50])
    before = watch.state_dict()
    with pytest.raises(ValueError, match="times: expected none earlier than the one before; got 1000"):
        watch.update(SCORES[:1], TIMES[:1])
    with pytest.raises(ValueError, match="give inputs in the order of arrival"):
        watch.update(SCORES[50:], TIMES[50:].flip(0))
    with pytest.raises(ValueError, match="times: expected finite numbers"):
        watch.update(SCORES[:1], torch.tensor([torch.nan]))
    with pytest.raises(ValueError, match="times: expected one per score"):
        watch.update(SCORES, TIMES[:3])
    assert watch.state_dict() == before
    with pytest.raises(ValueError, match="seconds: expected"):
        TimeWindows(ReferenceMartingale(REFERENCE), 0)
