"""Checkpoints whose best one is remembered when a training is resumed."""

import os
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class ResumableCheckpoint(ModelCheckpoint):
    """Lightning's, but a training that is resumed in another folder still knows its best epoch so far.

    Lightning's own forgets the best score when the folder changes, so the first epoch after it would count as the best
    of all. Files in the earlier folder are never removed. With loggers and without, files are in `checkpoints` in the
    Trainer's folder.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the folder."""
        self.dirpath = self.dirpath or os.path.join(trainer.default_root_dir, "checkpoints")
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
