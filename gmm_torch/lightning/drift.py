"""A drift monitor as a callback of a Trainer."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gmm_torch.conformal.drift import DriftMonitor
from gmm_torch.distributed import gather_rows
from gmm_torch.errors import DriftError, warn


class DriftWarning(UserWarning):
    """The inputs no longer look like the calibration set."""


def _score_of(outputs: Any) -> Tensor:
    score: Tensor = outputs["score"] if isinstance(outputs, dict) else outputs.score
    return score


class DriftCallback(Callback):
    """Monitors `trainer.predict` and `trainer.test` with a `DriftMonitor`, logs the capital and raises alarms.

    Loaders must keep the order in which inputs arrive. With several processes, the monitor takes their batches in the
    order of their ranks, so all processes need equally many batches.

    Args:
        calibration: (n,) calibration scores; None for the module's `detector.calibration.scores`.
        stop: raise `DriftError` at an alarm instead of warning with `DriftWarning`.
        score: function from a step's result to scores (N,); by default its `score`, such as that of a `Verdict`.
        time: function from a step's result to times (N,) in seconds, for windows.
        options: of `DriftMonitor`.

    Attributes:
        monitor: the monitor of the current run; each run starts a new one.
        earlier, earlier_times: scores and times of inputs that the monitor takes before those of the run, or None.
        alarms: index in the stream, from 0, of each input that raised an alarm.
        path: log10 of the capital after each batch.

    Raises:
        ValueError: windows without `time`; options out of range.
    """

    def __init__(
        self,
        calibration: Tensor | None = None,
        *,
        stop: bool = False,
        score: Callable[[Any], Tensor] = _score_of,
        time: Callable[[Any], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.calibration, self.stop, self.score, self.time, self.options = calibration, stop, score, time, options
        self.monitor = self.new_monitor(torch.zeros(1))
        if self.monitor.seconds is not None and time is None:
            raise ValueError(f"seconds: expected None without time; got {self.monitor.seconds:g}: give a function time")
        self.earlier: Tensor | None = None
        self.earlier_times: Tensor | None = None
        self.alarms: list[int] = []
        self.path: list[float] = []

    def new_monitor(self, calibration: Tensor, **options: Any) -> DriftMonitor:
        """A monitor with the options of this callback, for calibration scores (n,); more options override them."""
        return DriftMonitor(calibration, **{**self.options, **options})

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a stream.

        Raises:
            ValueError: there are no calibration scores.
        """
        calibration: Any = self.calibration
        if calibration is None:
            calibration = pl_module.detector.calibration.scores  # type: ignore[union-attr]
        if not len(calibration):
            raise ValueError("drift callback: expected calibration scores; got none: calibrate the detector first")
        self.monitor, self.alarms, self.path = self.new_monitor(calibration), [], []
        if self.earlier is not None:
            self._report(self.monitor.update(self.earlier, self.earlier_times))

    on_test_start = on_predict_start

    @torch.inference_mode(False)
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
        scores = gather_rows(self.score(outputs).detach())
        times = gather_rows(self.time(outputs)) if self.time and self.monitor.seconds is not None else None
        alarms = self.monitor.update(scores, times)
        self.path.append(self.monitor.log_capital / math.log(10))
        values = {"drift/log10_capital": self.path[-1], "drift/alarm": float(bool(self.alarms or alarms))}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self.monitor.n_seen)
        self._report(alarms)

    on_test_batch_end = on_predict_batch_end

    def _report(self, alarms: list[int]) -> None:
        self.alarms += alarms
        for index in alarms:
            message = f"drift at input {index + 1:,}: {self.monitor.alarm_in_words}"
            if self.stop:
                raise DriftError(message)
            warn(message, DriftWarning)
