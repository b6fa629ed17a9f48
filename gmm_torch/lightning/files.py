"""Detector files beside checkpoints, and detectors within them."""

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from gmm_torch.detector import FailureDetector
from gmm_torch.detector.file import read
from gmm_torch.errors import FileFormatError

NAME = "detector.safetensors"


def beside(checkpoint: str | Path) -> Path:
    """`epoch=3.ckpt` -> `epoch=3.detector.safetensors`."""
    return Path(checkpoint).with_suffix(f".{NAME}")


def to_bytes(detector: FailureDetector) -> Tensor:
    """The detector's file, (B,) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAME
        detector.save(path)
        return _bytes(path)


def from_bytes(content: Tensor, classifier: nn.Module) -> FailureDetector:
    """What `to_bytes` made, for a classifier of the same weights."""
    with _file(content) as path:
        return FailureDetector.load(path, classifier)


def find(contents: Iterable[Tensor | Path], mark: dict[str, str]) -> Tensor | None:
    """The first of some detector files, or of their bytes, for the classifier of a fingerprint; None without one."""
    for content in contents:
        with _file(content) as path:
            try:
                if path.is_file() and read(path)[0].classifier.model_dump() == mark:
                    return _bytes(path)
            except FileFormatError:  # another version's, or damaged: a detector is fitted again
                continue
    return None


@contextmanager
def _file(content: Tensor | Path) -> Iterator[Path]:
    """A file of that content, for as long as it is read."""
    if isinstance(content, Path):
        yield content
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAME
        path.write_bytes(content.cpu().numpy().tobytes())
        yield path


def _bytes(path: Path) -> Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def checkpoints(trainer: Trainer) -> list[Path]:
    """The files that the Trainer's checkpoint callbacks have written and kept."""
    found: dict[Path, None] = {}
    for callback in trainer.checkpoint_callbacks:
        state = callback.state_dict()
        paths = (state.get("last_model_path"), state.get("best_model_path"), *(state.get("best_k_models") or ()))
        found |= dict.fromkeys(Path(path) for path in paths if path)
    return [path for path in found if path.is_file()]


def holds(checkpoint: Path, module: LightningModule) -> bool:
    """True if a checkpoint has the module's weights; False if it can't be read without running its code."""
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except (pickle.UnpicklingError, KeyError):
        return False
    own = module.state_dict()
    return stored.keys() == own.keys() and all(
        not isinstance(value, Tensor) or torch.equal(value, own[name].cpu()) for name, value in stored.items()
    )
