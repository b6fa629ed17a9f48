"""Judging images in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.data import DataLoader

from trainers.data.file_batches import FileBatch, FileBatches
from trainers.modules.evaluation_module import EvaluationModule
from trainers.run.model import Model
from trainers.run.run import Run


class LocalEngine:
    """Decodes in the workers of a DataLoader (`data.num_workers`) and judges in this process."""

    @contextmanager
    def start(
        self, run: Run, model: Model, batches: FileBatches
    ) -> Iterator[tuple[EvaluationModule, DataLoader[FileBatch]]]:
        """A module and a loader that give the `Records` of the batches, in order, to `trainer.predict`."""
        yield (
            EvaluationModule(model.detector),
            DataLoader(batches, batch_size=None, num_workers=run.cfg.data.num_workers),
        )
