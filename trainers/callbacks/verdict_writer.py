"""Writing verdicts while images are scored."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from trainers.records.record import Records
from trainers.records.verdicts import Output


class VerdictWriter(Callback):
    """Appends the rows of each batch to an opened file as soon as `trainer.predict` has them."""

    def __init__(self, file: Output, class_names: Sequence[str]) -> None:
        super().__init__()
        self.file = file
        self.class_names = class_names

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        """Write the rows of a batch's `Records`."""
        records: Records = outputs
        self.file.append(list(records.records(self.class_names)))
