"""The Trainer of a run, and how it writes checkpoints."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins import TorchCheckpointIO
from omegaconf import DictConfig

from gmm_torch.files import atomic_path
from trainers.callbacks.end_on_sigterm import EndOnSigterm
from trainers.run.requirements import naming


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and moves it there in one step.

    Lightning's own writes into the machine's temporary folder; from another file system a move is a copy, which a kill
    cuts in the middle.
    """

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; see `TorchCheckpointIO`."""
        content = io.BytesIO()  # torch.save into a file tells a full disk in words that nobody understands
        torch.save(dict(checkpoint), content)
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


def make_trainer(cfg: DictConfig, folder: Path, **changes: Any) -> lightning.Trainer:
    """The Trainer of the node `trainer`, with some arguments changed, its files in the run's folder."""
    with naming("trainer", "" if cfg.get("accelerator") in ("auto", "cpu") else "trainer=cpu runs on any machine"):
        plugins = [AtomicCheckpointIO(), *instantiate(cfg.get("plugins") or [])]
        trainer = instantiate(cfg, default_root_dir=str(folder), **{"plugins": plugins, **changes})
    trainer.callbacks.insert(0, EndOnSigterm())  # checkpoints stay the last
    return trainer
