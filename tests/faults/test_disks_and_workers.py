"""Full disks, folders that can't be written, workers that die."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from gmm_torch import FailureDetector
from tests.configuration import configure
from tests.faults.parsers import make_detector, net
from trainers.classifiers.checkpoint import read_weights, save_weights
from trainers.run.job import USER_ERRORS, run_task
from trainers.run.trainer import AtomicCheckpointIO


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond so many bytes; writing more is an OSError, as on a disk without space."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


# ---- disks


def test_a_full_disk_leaves_the_detector_that_was_there(tmp_path):
    path = tmp_path / "detector.safetensors"
    detector = make_detector("combined")
    detector.save(path)
    whole = path.read_bytes()
    for n_bytes in (0, 100, len(whole) - 1):
        with full_disk(n_bytes), pytest.raises(OSError, match="too large"):
            detector.save(path)
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == [path.name]
    FailureDetector.load(path, net())


def test_a_full_disk_leaves_the_weights_that_were_there(tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_weights(net(), path)
    with full_disk(50), pytest.raises(OSError, match="too large"):
        save_weights(net(), path)
    assert len(read_weights(path)) == 4
    assert os.listdir(tmp_path) == [path.name]


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1, "state": torch.zeros(1000)}, path)
    with full_disk(1000), pytest.raises(OSError, match="too large"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2, "state": torch.zeros(1000)}, path)
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert os.listdir(tmp_path) == [path.name]


WRITERS = {
    "detector": lambda folder: make_detector("max_softmax").save(folder / "detector.safetensors"),
    "weights": lambda folder: save_weights(net(), folder / "classifier.safetensors"),
    "task": lambda folder: run_task(configure("task=train"), folder),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_file_in_place_of_the_folder_is_one_clear_error(tmp_path, what):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="runs"):
        WRITERS[what](tmp_path / "runs")
    assert issubclass(NotADirectoryError, USER_ERRORS)


# ---- workers


class Deadly(Dataset):
    """Its first image ends the worker that reads it; a later one would leave others half way to the reader."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(4)


class Reader(lightning.LightningModule):
    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return batch.sum(1)


def test_a_worker_that_dies_is_named(tmp_path, monkeypatch):
    # Without torch's handler of SIGCHLD, which an earlier test may have replaced, a loader looks every five seconds.
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
    loader = DataLoader(Deadly(), batch_size=1, num_workers=1)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(**options, default_root_dir=tmp_path)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)"):
        trainer.predict(Reader(), loader)
