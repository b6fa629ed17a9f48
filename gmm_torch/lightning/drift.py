"""Watching the inputs of a running model for drift."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gmm_torch.metrics.martingale import ExchangeabilityMartingale


class DriftError(RuntimeError):
    """The inputs no longer look like the calibration set, and the run was to stop then."""


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
    """Logs the exchangeability martingale of the scores and raises an alarm that is valid at any time.

    It watches `trainer.predict` and `trainer.test`, whose loaders must keep the order in which inputs arrive. On clean
    data the alarm is ever raised with probability at most 1 / threshold, however long the run.

    Args:
        calibration: (n,) calibration scores; None for those of the module's `detector.calibration.scores`.
        threshold: capital at which to raise the alarm.
        stop: raise `DriftError` at the alarm instead of warning with `DriftWarning`.
        score: from a step's result to scores (N,).
        jump, seed: of `ExchangeabilityMartingale`.

    Attributes:
        martingale: the metric; None before the first run. A new run starts anew, or behind `earlier`.
        earlier: (n,) scores of inputs that came before those of the run, NaN for one without; None for none.
        path: log10 of the capital after each batch.
    """

    def __init__(
        self,
        calibration: Tensor | None = None,
        threshold: float = 100.0,
        *,
        stop: bool = False,
        score: Callable[[Any], Tensor] = score_of,
        jump: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.calibration = calibration
        self.threshold = threshold
        self.stop = stop
        self.score = score
        self.jump = jump
        self.seed = seed
        self.martingale: ExchangeabilityMartingale | None = None
        self.earlier: Tensor | None = None
        self.path: list[float] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a stream."""
        self._start(pl_module)

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
        self._watch(trainer, outputs)

    on_test_batch_end = on_predict_batch_end

    def _start(self, module: LightningModule) -> None:
        calibration = self.calibration
        if calibration is None:
            calibration = getattr(getattr(getattr(module, "detector", None), "calibration", None), "scores", None)
        if not isinstance(calibration, Tensor) or len(calibration) == 0:
            raise ValueError(
                f"drift monitor: {type(module).__name__} has no calibrated `detector`: pass calibration scores, or "
                "calibrate the detector first"
            )
        self.martingale = ExchangeabilityMartingale(calibration.cpu(), self.threshold, self.jump, self.seed)
        self.path = []
        if self.earlier is not None:
            self.martingale.update(self.earlier)
            self._tell(self.martingale)

    def _watch(self, trainer: Trainer, outputs: Any) -> None:
        martingale = self.martingale
        if martingale is None:
            raise RuntimeError("drift monitor: a batch arrived before the run started; use it as a Trainer's callback")
        known = martingale.alarm
        with torch.inference_mode(False):
            martingale.update(self.score(outputs).detach().to("cpu", copy=True))
        self.path.append(float(martingale.compute()) / math.log(10))
        values = {"drift/log10_capital": self.path[-1], "drift/alarm": float(martingale.alarm)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=int(martingale.n_seen))
        if not known:
            self._tell(martingale)

    def _tell(self, martingale: ExchangeabilityMartingale) -> None:
        if not martingale.alarm:
            return
        message = (
            f"drift at input {martingale.alarm_index}: the capital reached {self.threshold:g}, which inputs like "
            f"the calibration set ever do with probability at most {1 / self.threshold:.2g}"
        )
        if self.stop:
            raise DriftError(message)
        warnings.warn(message, DriftWarning, stacklevel=2)
