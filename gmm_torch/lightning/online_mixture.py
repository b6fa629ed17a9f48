"""A mixture of the classifier's features that follows its training."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc
from torchvision.utils import make_grid, save_image

from gmm_torch.checks import check_count
from gmm_torch.distributed import gather_objects
from gmm_torch.evaluation.metrics import unit_ranks
from gmm_torch.features.hook import FeatureHook
from gmm_torch.features.layers import PENULTIMATE
from gmm_torch.features.modes import evaluating
from gmm_torch.files import atomic_path
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.online import OnlineMixture

_SHOWN_SIDE = 64  # pixels; smaller images are shown larger


class OnlineMixtureMonitor(Callback):
    """Keeps an `OnlineMixture` of the features of the training steps, and scores the validation images with it.

    The features come from the training steps themselves: no second pass, and no wait for the device. The module has a
    `classifier`, and batches are (images, labels). Each validation first renews the mixture, then logs
    `mixture/log_likelihood` (in nats), `mixture/error_auroc` and `mixture/drift`, explained in `docs/training.md`, and
    draws the least likely validation images: to each logger whose `experiment` has an `add_image`, otherwise to
    `least_likely/<step>.png` in the Trainer's folder.

    Args:
        n_components, covariance_type, window, every, reg_covar, seed: see `OnlineMixture`.
        layer, pooling: see `FeatureHook`.
        exact_passes: largest number of EM iterations at the end of the training, over features in evaluation mode; 0
            for none. The mixture is then as good as one fitted afterwards. The images come from `mixture_dataloader()`
            of the Trainer's data module, or without one from the train loader.
        n_images: how many images to draw.

    Attributes:
        online: the `OnlineMixture`; its state is saved with the Trainer's checkpoints.
    """

    def __init__(
        self,
        n_components: int = 10,
        covariance_type: str = "full",
        *,
        layer: str = PENULTIMATE,
        pooling: str = "mean",
        window: int | None = None,
        every: int = 1,
        reg_covar: float = 1e-2,
        exact_passes: int = 0,
        n_images: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("exact_passes", exact_passes, at_least=0)
        check_count("n_images", n_images, at_least=0)
        self.online = OnlineMixture(
            n_components, covariance_type, window=window, every=every, reg_covar=reg_covar, seed=seed
        )
        self.layer, self.pooling = layer, pooling
        self.exact_passes = exact_passes
        self.n_images = n_images
        self.hook: FeatureHook | None = None
        self._restored: dict[str, Any] | None = None
        self._before: GaussianMixture | None = None  # at the last validation
        self._scores: list[Tensor] = []
        self._wrong: list[Tensor] = []
        self._unlikely: tuple[Tensor, Tensor] | None = None  # scores, images

    # ---- training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hook the classifier; resume from a checkpoint."""
        self.hook = FeatureHook(pl_module.classifier, self.layer, pooling=self.pooling)  # type: ignore[arg-type]
        if self._restored is not None:
            self.online.load_state_dict(self._restored["online"], pl_module.device)
            if (before := self._restored["before"]) is not None:
                self._before = copy.deepcopy(self.online.mixture)
                self._before.load_state_dict(before)
            self._restored = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Raise ValueError for a batch with unlabelled images, whose passes look like those of the labelled ones."""
        if isinstance(batch, dict):
            raise ValueError(
                f"online mixture: expected batches of images and labels; got {', '.join(batch)}: "
                "set callbacks=default for a training with unlabelled images, or training=supervised"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the features of the step."""
        assert self.hook is not None
        self.online.update(self.hook.take().features)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the exact passes."""
        if self.exact_passes:
            self.online.finish(self._final_features(trainer), self.exact_passes)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks."""
        if self.hook is not None:
            self.hook.remove()
            self.hook = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self.on_fit_end(trainer, pl_module)

    # ---- validation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Renew the mixture."""
        self._scores, self._wrong, self._unlikely = [], [], None
        if self._is_on(trainer):
            self.online.refit()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        """Score a batch."""
        if not (self._is_on(trainer) and self.online.started):
            return
        assert self.hook is not None
        images, labels = batch[0], batch[1]
        caught = self.hook.take()
        score = self.online.mixture.log_prob(caught.features)
        self._scores.append(score)
        self._wrong.append(caught.logits.argmax(1) != labels)
        if self.n_images:
            kept_scores, kept = self._unlikely or (score[:0], images[:0])
            scores, candidates = torch.cat([kept_scores, score]), torch.cat([kept, images])
            lowest = scores.topk(min(self.n_images, len(scores)), largest=False)
            self._unlikely = lowest.values, candidates[lowest.indices]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and draw."""
        if not self._scores:
            return
        drawn = self._unlikely or (torch.empty(0), torch.empty(0))
        parts = gather_objects([each.cpu() for each in (torch.cat(self._scores), torch.cat(self._wrong), *drawn)])
        score, wrong, scores, images = (torch.cat([part[i] for part in parts]) for i in range(4))
        mixture = self.online.mixture
        defined = 0 < int(wrong.sum()) < len(wrong)  # without a value that of the validation before would stand
        auroc = binary_auroc(unit_ranks(score), (~wrong).long()) if defined else score.new_tensor(math.nan)
        values = {"mixture/log_likelihood": score.double().mean(), "mixture/error_auroc": auroc}
        if self._before is not None:
            values["mixture/drift"] = mixture.drift_from(self._before)
        with torch.inference_mode(False):
            self._before = copy.deepcopy(mixture)
        pl_module.log_dict({name: value.float() for name, value in values.items()}, sync_dist=True)
        if self.n_images and trainer.is_global_zero:
            self._draw(trainer, images[scores.argsort()[: self.n_images]])
        self._scores, self._wrong, self._unlikely = [], [], None

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """The mixture's state, for checkpoints: tensors and plain values."""
        before = None if self._before is None else self._before.state_dict()
        return {"online": self.online.state_dict(), "before": before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint, once the fit starts and the device is known."""
        self._restored = state_dict

    # ---- pieces

    def _is_on(self, trainer: Trainer) -> bool:
        return self.hook is not None and not trainer.sanity_checking

    def _draw(self, trainer: Trainer, images: Tensor) -> None:
        """Least likely first, row by row."""
        enlargement = max(1, _SHOWN_SIDE // images.shape[-1])  # digits of 8 pixels could not be made out
        larger = images.float().repeat_interleave(enlargement, -1).repeat_interleave(enlargement, -2)
        grid = make_grid(larger, nrow=8, pad_value=1.0)
        experiments: list[Any] = [getattr(logger, "experiment", None) for logger in trainer.loggers]
        boards = [experiment for experiment in experiments if hasattr(experiment, "add_image")]
        for board in boards:
            board.add_image("mixture/least_likely", grid, trainer.global_step)
        if not boards:
            path = Path(trainer.default_root_dir) / "least_likely" / f"{trainer.global_step:07d}.png"
            with atomic_path(path) as temporary:
                save_image(grid, temporary)

    @torch.no_grad()
    def _final_features(self, trainer: Trainer) -> Tensor:
        hook, kept = self.hook, getattr(getattr(trainer, "datamodule", None), "mixture_dataloader", None)
        assert hook is not None
        loader: Any = trainer.train_dataloader if kept is None else kept()
        parts = []
        with evaluating(hook.classifier), trainer.precision_plugin.forward_context():
            for batch in loader:
                images = trainer.strategy.batch_to_device(batch)[0]
                hook.classifier(images)
                parts.append(hook.take().features)
        return torch.cat(parts)
