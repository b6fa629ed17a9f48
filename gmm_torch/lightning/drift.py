"""Watching the inputs of a running model for drift."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gmm_torch.conformal.reference_martingale import Promise, ReferenceMartingale
from gmm_torch.conformal.time_windows import TimeWindows, alarm_in_words, seconds_of
from gmm_torch.errors import DriftError, warn
from gmm_torch.evaluation.martingale import ExchangeabilityMartingale


class DriftWarning(UserWarning):
    """The inputs no longer look like the calibration set."""


def score_of(outputs: Any) -> Tensor:
    """The `score` of what a step returns, such as `Records` or `Verdict`."""
    score = outputs.get("score") if isinstance(outputs, dict) else getattr(outputs, "score", None)
    if not isinstance(score, Tensor):
        raise TypeError(
            f"drift monitor: expected steps to return something with a tensor `score`; got {type(outputs).__name__}: "
            "pass a function from the step's result to the scores"
        )
    return score


class DriftMonitor(Callback):
    """Bets against "the scores come from where the calibration scores come from", logs the capital, raises alarms.

    It watches `trainer.predict` and `trainer.test`, whose loaders must keep the order in which inputs arrive. On clean
    data an alarm is ever raised with probability at most 1 / threshold, however long the run; with `seconds` in each
    window of time.

    Args:
        calibration: (n,) calibration scores; None for those of the module's `detector.calibration.scores`.
        threshold: capital at which to raise the alarm.
        against: "stream", the calibration scores and all inputs so far: `ExchangeabilityMartingale`; "reference", the
            calibration scores alone, with a few counts for memory: `ReferenceMartingale`.
        promise, delta: of `ReferenceMartingale`.
        seconds: length of the windows of time in each of which the bet against the reference begins anew, a number or
            such as "1h", see `TimeWindows`; None for one bet on the whole stream.
        stop: raise `DriftError` at the alarm instead of warning with `DriftWarning`.
        score: from a step's result to scores (N,).
        time: from a step's result to times (N,) in seconds, in the order of arrival, for windows.
        jump, seed: of the martingale.

    Attributes:
        martingale: the bet; None before the first run. A new run starts anew, or behind `earlier`.
        windows: the windows that it begins anew in, or None.
        earlier, earlier_times: (n,) scores of inputs before those of the run, NaN for one without, and their times, for
            windows; None for none.
        alarms: index in the stream, from zero, of each input that raised one: one at most, or one in each window.
        path: log10 of the capital after each batch.

    Raises:
        ValueError: windows of a bet against the stream, or without times; options out of range.
    """

    def __init__(
        self,
        calibration: Tensor | None = None,
        threshold: float = 100.0,
        *,
        against: Literal["stream", "reference"] = "stream",
        promise: Promise = "average",
        delta: float = 0.01,
        seconds: str | float | None = None,
        stop: bool = False,
        score: Callable[[Any], Tensor] = score_of,
        time: Callable[[Any], Tensor] | None = None,
        jump: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if against not in ("stream", "reference"):
            raise ValueError(f"against: expected 'stream' or 'reference'; got {against!r}")
        if seconds is not None and (against == "stream" or time is None):
            raise ValueError(
                f"seconds: expected none without against='reference' and time; got {seconds}: windows begin anew with "
                "the reference, at times that a function of the step's result gives"
            )
        self.calibration, self.threshold, self.stop = calibration, threshold, stop
        self.against, self.promise, self.delta, self.seconds = against, promise, delta, seconds_of(seconds)
        self.score, self.time, self.jump, self.seed = score, time, jump, seed
        self.new_bet(torch.zeros(1))  # options out of range are refused before a run begins
        self.martingale: ExchangeabilityMartingale | ReferenceMartingale | None = None
        self.windows: TimeWindows | None = None
        self.earlier: Tensor | None = None
        self.earlier_times: Tensor | None = None
        self.alarms: list[int] = []
        self.path: list[float] = []

    def new_bet(self, calibration: Tensor) -> ExchangeabilityMartingale | ReferenceMartingale:
        """The bet against calibration scores (n,) that a stream begins with."""
        if self.against == "stream":
            return ExchangeabilityMartingale(calibration.cpu(), self.threshold, self.jump, self.seed)
        return ReferenceMartingale(calibration, self.threshold, self.promise, self.delta, self.jump, self.seed)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a stream.

        Raises:
            ValueError: there are no calibration scores, or no times of earlier inputs.
        """
        calibration = self.calibration
        if calibration is None:
            calibration = getattr(getattr(getattr(pl_module, "detector", None), "calibration", None), "scores", None)
        if not isinstance(calibration, Tensor) or len(calibration) == 0:
            raise ValueError(
                f"drift monitor: {type(pl_module).__name__} has no calibrated `detector`: pass calibration scores, or "
                "calibrate the detector first"
            )
        self.alarms, self.path, self.windows = [], [], None
        self.martingale = bet = self.new_bet(calibration)
        if self.seconds is not None and isinstance(bet, ReferenceMartingale):
            self.windows = TimeWindows(bet, self.seconds)
        if self.earlier is not None:
            self._tell(self._bet(self.earlier, self.earlier_times))

    on_test_start = on_predict_start

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Bet on a batch."""
        if self.martingale is None:
            raise RuntimeError("drift monitor: a batch arrived before the run started; use it as a Trainer's callback")
        with torch.inference_mode(False):
            scores = self.score(outputs).detach().to("cpu", copy=True)
            times = None if self.seconds is None or self.time is None else self.time(outputs)
            found = self._bet(scores, times)
        self.path.append(float(self.martingale.log_capital) / math.log(10))
        values = {"drift/log10_capital": self.path[-1], "drift/alarm": float(bool(self.alarms))}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=int(self.martingale.n_seen))
        self._tell(found)

    on_test_batch_end = on_predict_batch_end

    def _bet(self, scores: Tensor, times: Tensor | None) -> list[int]:
        """Bet on the next scores (N,); gives the alarms that these raise."""
        martingale = self.martingale
        if self.windows is not None:
            if times is None:
                raise ValueError("drift monitor: expected the times of the inputs before; got none: set earlier_times")
            now = [window.alarm_at for window in self.windows.update(scores, times)]
        elif isinstance(martingale, ReferenceMartingale):
            now = [martingale.update(scores).alarm_at]
        else:
            assert martingale is not None
            martingale.update(scores)
            now = [martingale.alarm_index]
        new = [index for index in now if index is not None and index not in self.alarms[-1:]]
        self.alarms += new
        return new

    def _tell(self, alarms: list[int]) -> None:
        for index in alarms:
            message = f"drift at input {index + 1:,}: {alarm_in_words(self.threshold, self.seconds)}"
            if self.stop:
                raise DriftError(message)
            warn(message, DriftWarning)
