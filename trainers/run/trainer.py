"""The Trainer of a run."""

from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig

from trainers.callbacks.end_on_sigterm import EndOnSigterm
from trainers.run.checkpoint_io import AtomicCheckpointIO
from trainers.run.requirements import naming


def make_trainer(cfg: DictConfig, folder: Path, **changes: Any) -> lightning.Trainer:
    """The configured Trainer, its files in the run's folder.

    Args:
        cfg: the node `trainer`.
        folder: of the run.
        **changes: of its arguments.
    """
    with naming("trainer", "" if cfg.get("accelerator") in ("auto", "cpu") else "trainer=cpu runs on any machine"):
        plugins = [AtomicCheckpointIO(), *instantiate(cfg.get("plugins") or [])]
        trainer = instantiate(cfg, default_root_dir=str(folder), **{"plugins": plugins, **changes})
    trainer.callbacks.insert(0, EndOnSigterm())  # checkpoints stay the last
    return trainer
