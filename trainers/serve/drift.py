"""Drift of a stream of verdicts, in windows of time or of counts."""

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import Tensor

from gmm_torch.metrics.martingale import ExchangeabilityMartingale
from trainers.serve.answers import DriftWindow

STRETCH = 10_000  # images after which the bet against the calibration set begins anew: its memory has to end
THRESHOLD = 100.0  # capital of the alarm
N_KEPT = 48  # windows that are remembered

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def seconds_of(duration: str | float | None) -> float | None:
    """A length of time in seconds: a number of them, or "30s", "15min", "1h", "7d"; None stays None.

    Raises:
        ValueError: something else, or no time at all.
    """
    if duration is None:
        return None
    found = re.fullmatch(r"([0-9.]+)\s*(s|min|h|d)?", str(duration).strip())
    try:
        seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f'drift.window: expected a length of time, such as "15min", "1h" or "7d"; got {duration!r}')
    return seconds


@dataclass
class _Window:
    started: datetime
    began: float
    n_images: int = 0
    n_refused: int = 0
    n_not_finite: int = 0
    n_alarms: int = 0
    highest: float = 0.0  # log capital
    ended: float | None = field(default=None)


class Drift:
    """Counts verdicts in windows, and bets in each against "these images are like the calibration images".

    The bet is the exchangeability martingale of `gmm_torch.metrics.martingale`. It ranks each score among the
    calibration scores and those of its stretch, which takes memory: a stretch ends with its window, and after `STRETCH`
    images. On images like the calibration images a stretch raises an alarm with probability at most 1 / `THRESHOLD`.

    What is kept is bounded: the scores of one stretch, and the counts of `N_KEPT` windows. A window begins where the
    one before ended; windows without an image are not kept. Time is that of a monotone clock; where it is set back
    all the same, it stands still until it has caught up: no window ends early, and none is counted twice.

    One thread updates; any may read.

    Args:
        calibration: (n,) calibration scores.
        alpha: share of such images that is refused.
        window: seconds; None for windows of `STRETCH` images.
        clock: seconds, from any beginning.
    """

    _bet: ExchangeabilityMartingale
    _current: _Window

    def __init__(
        self,
        calibration: Tensor,
        alpha: float,
        window: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.alpha = alpha
        self.window = window
        self._calibration = calibration.detach().double().cpu()
        self._clock = clock
        self._lock = threading.Lock()
        self._now = clock()
        self._closed: deque[_Window] = deque(maxlen=N_KEPT - 1)
        self._n_stretches = 0
        self._open(self._now)

    @torch.inference_mode(False)
    def update(self, scores: Tensor, n_refused: int, n_not_finite: int = 0) -> bool:
        """Take the scores (N,) of a batch, in the order of the stream; whether they raised an alarm."""
        with self._lock:
            self._advance()
            if int(self._bet.n_seen) >= STRETCH:
                self._bet = self._begin()
            before = self._bet.alarm
            self._bet.update(scores.double().clone())
            raised = self._bet.alarm and not before
            window = self._current
            window.n_images += len(scores)
            window.n_refused += n_refused
            window.n_not_finite += n_not_finite
            window.n_alarms += raised
            window.highest = max(window.highest, float(self._bet.log_maximum))
            return raised

    @property
    def log10_capital(self) -> float:
        """Evidence against images like the calibration images, in the current stretch."""
        with self._lock:
            self._advance()
            return float(self._bet.log_capital) / math.log(10)

    @property
    def current(self) -> DriftWindow:
        """The window that is open."""
        return self.windows()[0]

    def windows(self) -> list[DriftWindow]:
        """The window that is open, then those before, newest first."""
        with self._lock:
            self._advance()
            return [self._told(each) for each in (self._current, *reversed(self._closed))]

    def _advance(self) -> None:
        """Read the clock, and close the window where it has ended."""
        self._now = max(self._now, self._clock())
        window = self._current
        if self.window is None:
            if window.n_images >= STRETCH:
                self._close(self._now, self._now)
            return
        n_over = math.floor((self._now - window.began) / self.window)
        if n_over >= 1:
            self._close(window.began + self.window, window.began + n_over * self.window)

    def _close(self, ended: float, began: float) -> None:
        self._current.ended = ended
        if self._current.n_images:
            self._closed.append(self._current)
        self._open(began)

    def _open(self, began: float) -> None:
        started = datetime.fromtimestamp(time.time() - (self._now - began), UTC)
        self._current = _Window(started, began)
        self._bet = self._begin()

    def _begin(self) -> ExchangeabilityMartingale:
        self._n_stretches += 1
        return ExchangeabilityMartingale(self._calibration, THRESHOLD, seed=self._n_stretches)

    def _told(self, window: _Window) -> DriftWindow:
        return DriftWindow(
            started=window.started.isoformat(timespec="seconds"),
            seconds=max(0.0, (self._now if window.ended is None else window.ended) - window.began),
            complete=window.ended is not None,
            images=window.n_images,
            refused=window.n_refused,
            not_finite=window.n_not_finite,
            refusal_rate=window.n_refused / window.n_images if window.n_images else None,
            alpha=self.alpha,
            log10_capital=window.highest / math.log(10),
            alarms=window.n_alarms,
        )
