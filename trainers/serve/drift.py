"""Drift of the stream of verdicts: alarms, and counts in windows of time."""

import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import torch
from torch import Tensor

from gmm_torch.conformal.drift import DriftMonitor, Window
from trainers.serve.answers import DriftWindow

Watch = Callable[[Tensor], DriftMonitor]  # a new monitor for calibration scores (n,)
_AHEAD = time.time() - time.monotonic()


def whole_stream(calibration: Tensor) -> DriftMonitor:
    """Monitor with one bet for as long as the detector serves."""
    return DriftMonitor(calibration, against="reference")


def steady_time() -> float:
    """Seconds since 1970, by a clock that was right when the process began and that nobody sets since."""
    return _AHEAD + time.monotonic()


class Drift:
    """Counts verdicts in the windows of a drift monitor.

    If the clock runs backwards, time stands still until the clock has caught up: no window ends early or is counted
    twice. One thread updates; any thread may read.

    Args:
        monitor: sets the windows, and how many of them to keep.
        alpha: of such images at most this share is refused, on average over calibration sets.
        clock: seconds since 1970.
    """

    def __init__(self, monitor: DriftMonitor, alpha: float, clock: Callable[[], float] = steady_time) -> None:
        self.monitor, self.alpha, self._clock = monitor, alpha, clock
        self._lock = threading.Lock()
        self._began = self._now = clock()
        self._counts: dict[float, tuple[int, int]] = {}  # start of a window -> refused, not finite

    def update(self, scores: Tensor, n_refused: int, n_not_finite: int = 0) -> bool:
        """Take the scores (N,) of a batch, in the order of the stream; whether they raised an alarm."""
        if not len(scores):
            return False  # or counts of a window without images would push out those of one with some
        with self._lock:
            window = self._present()
            alarms = self.monitor.update(scores, torch.full(scores.shape, self._now, dtype=torch.float64))
            refused, not_finite = self._counts.get(window.start, (0, 0))
            self._counts[window.start] = refused + n_refused, not_finite + n_not_finite
            if len(self._counts) > self.monitor.keep:
                del self._counts[min(self._counts)]
            return bool(alarms)

    @property
    def log10_capital(self) -> float:
        """Evidence against images like the calibration images, in the window that is open."""
        with self._lock:
            return self.monitor.log_capital / math.log(10) if self._present().n else 0.0

    @property
    def current(self) -> DriftWindow:
        """The window that is open."""
        return self.windows()[0]

    def windows(self) -> list[DriftWindow]:
        """The window that is open, then those with images before, newest first."""
        with self._lock:
            present = self._present()
            before = [each for each in reversed(self.monitor.windows) if each.start != present.start]
            return [self._told(present, self._now)] + [
                self._told(each, each.start + (self.monitor.seconds or 0), complete=True) for each in before
            ]

    def _present(self) -> Window:
        self._now = max(self._now, self._clock())
        return self.monitor.window_at(self._now)

    def _told(self, window: Window, until: float, complete: bool = False) -> DriftWindow:
        refused, not_finite = self._counts.get(window.start, (0, 0))
        started = max(window.start, self._began)
        return DriftWindow(
            started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            seconds=until - started,
            complete=complete,
            images=window.n,
            refused=refused,
            not_finite=not_finite,
            refusal_rate=refused / window.n if window.n else None,
            alpha=self.alpha,
            highest_log10_capital=window.log_maximum / math.log(10),
            alarms=int(window.alarm_at is not None),
        )
