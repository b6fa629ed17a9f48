"""Training the classifier."""

import logging
from pathlib import Path

import lightning
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig

from trainers.classifiers.checkpoint import load_weights, read_weights, save_weights
from trainers.run.folder import WEIGHTS, begin_training
from trainers.run.run import Run

log = logging.getLogger(__name__)


def train(cfg: DictConfig, folder: Path) -> None:
    """Train the classifier."""
    train_classifier(Run(cfg, folder))


def train_classifier(run: Run) -> None:
    """Train, keep the best epoch's weights, and write `classifier.safetensors`."""
    cfg, data = run.cfg, run.data
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    classifier = run.classifier  # built with the seed; its checkpoint may lie in this folder
    begin_training(run.folder, resumed=cfg.resume is not None)
    module = instantiate(cfg.method)(classifier, data.num_classes, **instantiate(cfg.optimizer))
    trainer = run.trainer(callbacks=run.training_callbacks)
    trainer.fit(module, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
    keeper = trainer.checkpoint_callback
    if isinstance(keeper, ModelCheckpoint) and keeper.best_model_path:
        load_weights(classifier, read_weights(keeper.best_model_path), keeper.best_model_path)
    save_weights(classifier, run.folder / WEIGHTS)
    log.info("classifier: %s", run.folder / WEIGHTS)
