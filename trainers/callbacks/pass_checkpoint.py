"""Checkpoints of a fit by EM."""

import time
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Checkpoint


class PassCheckpoint(Checkpoint):
    """Writes a checkpoint at the end of a pass, when the last one is old enough.

    Lightning's own looks at the number of optimizer steps, of which EM has none, and so never writes.

    Args:
        path: of the file, replaced each time.
        seconds: between checkpoints; a fit that takes less writes none. 0 writes after every pass.
    """

    def __init__(self, path: Path, seconds: float = 60) -> None:
        self.path = path
        self.seconds = seconds
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write, in all processes or in none."""
        due = time.monotonic() - self._last >= self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            trainer.save_checkpoint(self.path)
            self._last = time.monotonic()
