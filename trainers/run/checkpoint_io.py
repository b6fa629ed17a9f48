"""Checkpoints that are whole or not there."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from gmm_torch.files import atomic_path


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
