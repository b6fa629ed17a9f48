import json

import pytest
import torch

from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.conformal.time_windows import TimeWindows, Window, seconds_of

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


def test_without_a_length_the_whole_stream_is_one_window():
    whole, alone = TimeWindows(ReferenceMartingale(REFERENCE), None), ReferenceMartingale(REFERENCE)
    whole.update(SCORES[:70], TIMES[:70] - 1100)
    whole.update(SCORES[70:], TIMES[70:])
    alarm = alone.update(SCORES).alarm_at
    assert whole.windows == [Window(0, 100, alarm, pytest.approx(alone.log_maximum))]
    assert "the whole stream; 1 of 1 with an alarm" in repr(whole)


def test_a_window_without_inputs_yet_can_be_asked_for():
    watch = windows()
    assert watch.at(1000.0) == Window(1000, 0, None, 0)
    watch.update(SCORES, TIMES)
    assert watch.at(1399.5) == watch.windows[-1]
    assert watch.at(1400.0) == Window(1400, 0, None, 0)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (None, None), (90, 90), (1e-5, 1e-5), ("90", 90), ("90s", 90), ("15min", 900), ("1h", 3600), ("1.5 h", 5400),
        ("7d", 604800), ("1e3", 1000),
    ],
)  # fmt: skip
def test_lengths_of_time(told, seconds):
    assert seconds_of(told) == pytest.approx(seconds)


@pytest.mark.parametrize("told", ["", "h", "1 hour", "-1h", 0, -1.5, "0s", "..h", "nan", float("inf"), "9e999d", True])
def test_what_is_no_length_of_time_is_refused(told):
    with pytest.raises(ValueError, match="seconds: expected a length of time above 0, such as"):
        seconds_of(told)
