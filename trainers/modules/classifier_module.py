"""Training of a classifier under a Lightning Trainer."""

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

_CHECK_EVERY = 50  # batches


class ClassifierModule(lightning.LightningModule):
    """Cross entropy on labelled images, with accuracy and calibration error.

    Logs `train/loss`; `val/` and `test/` each with `loss`, `accuracy` and `calibration_error` (expected
    calibration error over 15 bins; Guo et al. 2017).

    Args:
        classifier: images (N, C, H, W) to logits (N, num_classes).
        optimizer: makes an optimizer of the parameters.
        scheduler: makes a schedule, stepped after every optimizer step, of the optimizer and the keyword
            `total_steps`; None for a constant learning rate.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).

    Raises:
        ValueError: if `label_smoothing` is out of its range.
    """

    non_finite: Tensor  # whether a loss was, () bool

    def __init__(
        self,
        classifier: nn.Module,
        num_classes: int,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share in [0, 1); got {label_smoothing}")
        self.classifier = classifier
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.label_smoothing = label_smoothing
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.register_buffer("non_finite", torch.tensor(False), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, C, H, W); logits (N, num_classes)."""
        return self.classifier(images)

    def loss(self, batch: Any) -> Tensor:
        """Cross entropy, mean over a batch of images (N, C, H, W) and labels (N,)."""
        images, labels = batch
        return self.supervised_loss(self(images), labels)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of logits (N, C) and labels (N,), smoothed as asked."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = self.loss(batch)
        self.non_finite |= ~loss.detach().isfinite()
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is not finite, before validation and checkpoints see the weights.

        Raises:
            FloatingPointError: if there was one.
        """
        # reading the flag waits for the device, so a GPU is asked only now and then
        every = 1 if self.device.type == "cpu" else _CHECK_EVERY
        due = (batch_idx + 1) % every == 0 or self.trainer.is_last_batch
        if due and bool(self.non_finite):
            raise FloatingPointError(
                f"training loss: expected a finite number; got none (epoch {self.current_epoch}, at or before batch "
                f"{batch_idx}): lower optimizer.lr, or look for non-finite pixels in the data"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Take a batch of images (N, C, H, W) and labels (N,) into the validation metrics."""
        self._evaluate(batch, self.val_metrics, "val/loss")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Take a batch of images (N, C, H, W) and labels (N,) into the test metrics."""
        self._evaluate(batch, self.test_metrics, "test/loss")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer, and its schedule over all steps of the training.

        Raises:
            ValueError: if there is a schedule and the training has no end.
        """
        optimizer = self.optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer, total_steps=self.total_steps("training.scheduler"))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def total_steps(self, name: str) -> int:
        """The optimizer steps of the training, for the option of that name.

        Raises:
            ValueError: if the training has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError(
                f"{name}: expected a training of known length; got one without end: set trainer.max_epochs"
            )
        return int(steps)

    def _evaluate(self, batch: tuple[Tensor, Tensor], metrics: MetricCollection, loss_name: str) -> None:
        images, labels = batch
        logits = self(images)
        metrics.update(logits.softmax(dim=1), labels)
        self.log(loss_name, F.cross_entropy(logits, labels), sync_dist=True, batch_size=len(labels))
        for name, metric in metrics.items():
            self.log(name, metric, prog_bar=name.endswith("accuracy"), on_epoch=True, batch_size=len(labels))
