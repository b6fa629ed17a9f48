"""Verdicts under a Lightning Trainer."""

from typing import Any

from lightning.pytorch import LightningModule

from gmm_torch.detector import FailureDetector, Verdict
from gmm_torch.features.inputs import inputs_of


class VerdictModule(LightningModule):
    """Gives a `Verdict` for each batch, by `Trainer.predict`.

    Args:
        detector: fitted and calibrated; batches are those that its `fit` takes.
    """

    def __init__(self, detector: FailureDetector) -> None:
        super().__init__()
        self.detector = detector

    def predict_step(self, batch: Any, batch_idx: int) -> Verdict:
        """The verdict on a batch x or (x, ...)."""
        return self.detector(inputs_of(batch))  # type: ignore[no-any-return]
