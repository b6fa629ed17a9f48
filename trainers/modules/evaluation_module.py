"""Scoring images under a Lightning Trainer."""

from collections.abc import Callable

import lightning
from torch import Tensor

from gmm_torch.detector import FailureDetector, FeatureExtractor, Features
from gmm_torch.features.inputs import InputKeys
from gmm_torch.mixture.batches import first_of
from trainers.data.file_batches import FileBatch
from trainers.records.record import Records, records_of


class OutputsModule(lightning.LightningModule):
    """Hands on the logits and features of a loader's images, batch by batch, by `trainer.predict`.

    Args:
        extractor: of the detector.
        take: what is done with those of a batch.
        labels: whether the labels of batches (x, label, ...) are kept, for a score that was told to use them.
    """

    def __init__(
        self, extractor: FeatureExtractor, take: Callable[[Features], object], *, labels: bool = False
    ) -> None:
        super().__init__()
        self.take = take
        self.extractor = extractor
        self.labels = labels
        self.keys = InputKeys()

    def predict_step(self, batch: Tensor | list[Tensor], batch_idx: int) -> int:
        """Hand on the outputs of a batch x or (x, ...), and say how many there are."""
        x = first_of(batch)
        outputs = self.extractor(x)._replace(keys=self.keys(x))
        self.take(outputs._replace(labels=batch[1]) if self.labels else outputs)
        return len(x)

    def on_predict_end(self) -> None:
        """Let go of what took the outputs: a Trainer keeps its last module."""
        del self.take


class EvaluationModule(lightning.LightningModule):
    """Records of a loader's images, by `trainer.predict`."""

    detector: FailureDetector

    def __init__(self, detector: FailureDetector) -> None:
        super().__init__()
        self.detector = detector

    def predict_step(self, batch: Tensor | list[Tensor] | FileBatch, batch_idx: int) -> Records:
        """`Records` of a batch x or (x, ...), with the paths of a `FileBatch`."""
        outputs = self.detector.extractor(first_of(batch))
        files = batch if isinstance(batch, FileBatch) else None
        return records_of(
            outputs,
            self.detector(outputs),
            components=self.detector.score.components(outputs),
            features=list(outputs.layers.values())[-1][:, 0],
            path=files and files.paths,
            error=files and files.errors,
        )
