"""Alarms over windows of time: a bet begins anew in each, so that each has its own false alarm rate."""

import math
import re
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from gmm_torch.checks import check_count, check_one_each
from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.conformal.stream import Stream

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def seconds_of(length: str | float | None) -> float | None:
    """A length of time in seconds: a number of them, or "30s", "15min", "1h", "7d"; None stays None.

    Raises:
        ValueError: something else, or no time at all.
    """
    if length is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?)\s*(s|min|h|d)?", str(length).strip())
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(
            f'seconds: expected a length of time above 0, such as 90, "15min", "1h" or "7d"; got {length!r}'
        )
    return seconds


def alarm_in_words(threshold: float, seconds: float | None) -> str:
    """What an alarm says, in a window of time or, with None, of the whole stream."""
    ever = "ever does so" if seconds is None else f"does so in a window of {seconds:g} s"
    return (
        f"the bet against the calibration inputs reached {threshold:g} times its stake; on inputs like them it {ever} "
        f"with probability at most {1 / threshold:.2g}"
    )


class Window(NamedTuple):
    """A window of time that began at `start`, in seconds, with n inputs, and the highest log capital in it.

    `alarm_at` is the index in the stream of the input that raised the alarm, or None.
    """

    start: float
    n: int
    alarm_at: int | None
    log_maximum: float


class TimeWindows(Stream):
    """Cuts a stream into windows of time, from k * seconds to (k + 1) * seconds, and bets in each anew.

    In each window there is a false alarm with probability at most 1 / threshold (for "set", given the reference), so of
    M windows M / threshold have one on average: hours and a threshold of 10,000 make less than one false alarm a year.
    What drifts slowly beyond a window is found only by a bet that goes on. A window without inputs does not appear.

    With "average" that probability is over references too: windows share theirs, and with an unlucky one more of them
    have an alarm.

    Args:
        martingale: the bet, not in use elsewhere.
        seconds: length of a window, see `seconds_of`; None for one window, the whole stream.
        keep: how many windows to remember, the present one included.
    """

    settings = ("seconds", "keep")
    state = ("latest", "closed", "martingale")

    def __init__(self, martingale: ReferenceMartingale, seconds: str | float | None, keep: int = 1000) -> None:
        check_count("keep", keep)
        self.martingale, self.seconds, self.keep = martingale, seconds_of(seconds), keep
        self.latest: float | None = None  # time of the latest input
        self.closed: list[list[float | int | None]] = []

    @property
    def windows(self) -> list[Window]:
        """The latest windows, the present one last."""
        present = [] if self.latest is None else [self.at(self.latest)]
        return [Window(*each) for each in (*self.closed, *present)]  # type: ignore[arg-type]

    def update(self, scores: Tensor, times: Tensor) -> list[Window]:
        """Bet on scores (N,) that arrived at times (N,), in seconds; gives the windows that these inputs lie in.

        Raises:
            ValueError: shapes; times that are not finite, or of a clock that runs backwards. Nothing has changed then.
        """
        check_one_each("times", "score", scores, times, do="give seconds")
        clock = times.detach().cpu().double()
        if not bool(clock.isfinite().all()):
            raise ValueError("times: expected finite numbers; got NaN or infinity: give seconds")
        known = clock.tolist() if self.latest is None else [self.latest, *clock.tolist()]
        for before, after in pairwise(known):
            if after < before:
                raise ValueError(
                    f"times: expected none earlier than the one before; got {after:.6f} after {before:.6f}: give "
                    "inputs in the order of arrival, with times of one clock"
                )
        found = []
        numbers = (clock / (self.seconds or math.inf)).floor()
        for number in numbers.unique_consecutive():
            inside = numbers == number
            if self.latest is not None and self._number(self.latest) != int(number):
                self.closed = [*self.closed, list(self.at(self.latest))][1 - self.keep :] if self.keep > 1 else []
                self.martingale.restart()
            self.martingale.update(scores[inside.to(scores.device)])
            self.latest = float(clock[inside][-1])
            found.append(self.at(self.latest))
        return found

    def at(self, time: float) -> Window:
        """The window of a time that is not before the latest input; it may be without inputs yet."""
        bet, number = self.martingale, self._number(time)
        start = number * (self.seconds or 0.0)
        if self.latest is None or self._number(self.latest) != number:
            return Window(start, 0, None, 0.0)
        return Window(start, bet.n_here, bet.alarm_at, bet.log_maximum)

    def _number(self, time: float) -> int:
        return math.floor(time / (self.seconds or math.inf))

    def __repr__(self) -> str:
        alarms = sum(window.alarm_at is not None for window in self.windows)
        length = "the whole stream" if self.seconds is None else f"{self.seconds:g} s"
        return f"TimeWindows({length}; {alarms} of {len(self.windows)} with an alarm; {self.martingale!r})"
