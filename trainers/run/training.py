"""Training the classifier, once for all jobs that need it."""

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gmm_torch.files import atomic_path
from trainers.cache.keys import without
from trainers.cache.run_folder import WEIGHTS, begin_training
from trainers.callbacks.epoch_seeds import EpochSeeds
from trainers.classifiers.build import build_classifier
from trainers.classifiers.checkpoint import load_weights, read_weights, save_weights
from trainers.modules.classifier_module import ClassifierModule
from trainers.run.requirements import require
from trainers.run.trainer import make_trainer

if TYPE_CHECKING:  # cached weights depend on what makes them, see `train_classifier`, not on all stages of a run
    from trainers.run.run import Run

# Of the config, what has no part in the weights. All else, what is added later included, counts.
AFTER_TRAINING = (
    *("hydra", "paths", "title", "task", "checkpoint", "missing_data", "limit", "benchmark", "logger"),
    *("ood", "attack", "corruption", "adaptive", "mixture", "detector", "input", "output", "page"),
)

log = logging.getLogger(__name__)


def train_classifier(run: "Run") -> None:
    """Train the classifier, or take the weights of the same training from the cache; write `classifier.safetensors`.

    The same training is the same images in the same roles, the same code, and the same config of all that has a part
    in it.
    """
    require(run.cfg.training or None, "training", "a classifier without weights needs a training")
    _ = run.classifier  # built before anything is removed: its checkpoint may lie in this folder
    begin_training(run.folder, resumed=run.cfg.resume is not None)
    if run.cache is None:
        _train(run, run.folder / WEIGHTS)
    else:
        config = OmegaConf.to_container(run.cfg, resolve=True)
        parts = without(config, *AFTER_TRAINING) | {"data_fingerprint": run.data.fingerprint()}  # type: ignore[arg-type]
        code = (train_classifier, build_classifier, make_trainer)
        kept = run.cache.file("classifiers", parts, code, ".safetensors", lambda path: _train(run, path))
        # Always from the file: what lies in this folder, or was trained in this process, says nothing of these parts.
        load_weights(run.classifier, read_weights(kept), kept)
        with atomic_path(run.folder / WEIGHTS) as temporary:  # a file that lay there may be one with another job's
            shutil.copyfile(kept, temporary)
    log.info("classifier: %s", run.folder / WEIGHTS)


def new_module(cfg: DictConfig, classifier: nn.Module, n_classes: int) -> ClassifierModule:
    """The Lightning module of the node `training`, whose `unlabelled` is for the data."""
    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    del options["unlabelled"]
    return instantiate(options)(classifier, n_classes)


def _train(run: "Run", path: Path) -> None:
    """Train, keep the best epoch's weights, and write them to `path`."""
    cfg, data, classifier = run.cfg, run.data, run.classifier
    module = new_module(cfg.training, classifier, data.num_classes)
    trainer = run.trainer(callbacks=[EpochSeeds(cfg.seed), *run.callbacks])
    trainer.fit(module, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
    keeper = trainer.checkpoint_callback
    if isinstance(keeper, ModelCheckpoint) and keeper.best_model_path:
        load_weights(classifier, read_weights(keeper.best_model_path), keeper.best_model_path)
    save_weights(classifier, path)
