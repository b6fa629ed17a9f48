"""Alarms over windows of time: a bet begins anew in each, so that each has its own false alarm rate."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.conformal.stream import Stream
from gmm_torch.functional.checks import check_count


class Window(NamedTuple):
    """What happened in a window of time.

    Attributes:
        start: when it began, in seconds.
        n: inputs in it.
        alarm_at: index in the stream of the input that raised the alarm, or None.
        log_maximum: the highest logarithm of the capital in it.
    """

    start: float
    n: int
    alarm_at: int | None
    log_maximum: float


class TimeWindows(Stream):
    """Cuts a stream into windows of time, from k * seconds to (k + 1) * seconds, and bets in each anew.

    In each window there is a false alarm with probability at most 1 / threshold (for "set", given the reference), so of
    M windows M / threshold have one on average: hours and a threshold of 10,000 make less than one false alarm a year.
    A bet that goes on for ever has one with probability 1 / threshold in all; but it has to be started anew by hand,
    and what drifts slowly beyond a window is found by it alone. A window without inputs does not appear.

    Args:
        martingale: the bet, not in use elsewhere.
        seconds: length of a window, above 0.
        keep: how many windows to remember, the present one included.
    """

    settings = ("seconds", "keep")
    state = ("latest", "closed", "martingale")

    def __init__(self, martingale: ReferenceMartingale, seconds: float, keep: int = 1000) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds: expected a finite number above 0; got {seconds}")
        check_count("keep", keep)
        self.martingale, self.seconds, self.keep = martingale, float(seconds), keep
        self.latest: float | None = None  # time of the latest input
        self.closed: list[list[float | int | None]] = []

    @property
    def windows(self) -> list[Window]:
        """The latest windows, the present one last."""
        present = [] if self.latest is None else [self._present(self.latest)]
        return [Window(*each) for each in (*self.closed, *present)]  # type: ignore[arg-type]

    def update(self, scores: Tensor, times: Tensor) -> list[Window]:
        """Bet on scores (N,) that arrived at times (N,), in seconds; gives the windows that these inputs lie in.

        Raises:
            ValueError: shapes; times that are not finite, or of a clock that runs backwards. Nothing has changed then.
        """
        if times.shape != scores.shape or times.dim() != 1:
            raise ValueError(
                f"times: expected one per score, shape {tuple(scores.shape)}; got {tuple(times.shape)}: give seconds"
            )
        clock = times.detach().cpu().double()
        if not bool(clock.isfinite().all()):
            raise ValueError("times: expected finite numbers; got NaN or infinity: give seconds")
        known = clock if self.latest is None else torch.cat([clock.new_tensor([self.latest]), clock])
        back = (known.diff() < 0).nonzero()
        if len(back):
            before, after = known[int(back[0, 0])], known[int(back[0, 0]) + 1]
            raise ValueError(
                f"times: expected none earlier than the one before; got {float(after):.6f} after {float(before):.6f}: "
                "give inputs in the order of arrival, with times of one clock"
            )
        found = []
        for number in (clock / self.seconds).floor().unique_consecutive():
            inside = (clock / self.seconds).floor() == number
            if self.latest is not None and math.floor(self.latest / self.seconds) != int(number):
                self.closed = [*self.closed, list(self._present(self.latest))][1 - self.keep :] if self.keep > 1 else []
                self.martingale.restart()
            self.martingale.update(scores[inside.to(scores.device)])
            self.latest = float(clock[inside][-1])
            found.append(self._present(self.latest))
        return found

    def _present(self, latest: float) -> Window:
        bet = self.martingale
        start = math.floor(latest / self.seconds) * self.seconds
        return Window(start, bet.n_here, bet.alarm_at, bet.log_maximum)

    def __repr__(self) -> str:
        alarms = sum(window.alarm_at is not None for window in self.windows)
        return f"TimeWindows({self.seconds:g} s; {alarms} of {len(self.windows)} with an alarm; {self.martingale!r})"
