"""Full disks, folders that can't be written, workers and processes that die."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning
import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException
from torch.utils.data import DataLoader, Dataset

from gmm_torch import FailureDetector, GaussianMixture
from gmm_torch.em.options import EMOptions
from gmm_torch.lightning.mixture_module import MixtureModule
from tests.contracts.test_configs import configure
from tests.faults.parsers import make_detector, net
from trainers.callbacks.end_on_sigterm import EndOnSigterm
from trainers.callbacks.pass_checkpoint import PassCheckpoint
from trainers.classifiers.checkpoint import read_weights, save_weights
from trainers.run.checkpoint_io import AtomicCheckpointIO
from trainers.run.job import USER_ERRORS, run_task
from trainers.run.strategies import without_gradients

OPTIONS = EMOptions(max_iter=8, tol=0.0, seed=3)


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


def test_a_worker_that_dies_is_named(tmp_path):
    loader = DataLoader(Deadly(), batch_size=1, num_workers=1)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(**options, default_root_dir=tmp_path)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)"):
        trainer.predict(Reader(), loader)


# ---- processes


class Dies(lightning.Callback):
    """Ends a process in an epoch."""

    def __init__(self, rank: int, by: signal.Signals) -> None:
        self.rank = rank
        self.by = by

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.global_rank == self.rank and trainer.current_epoch == 6:
            os.kill(os.getpid(), self.by)


def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(501, 4, generator=generator) + 4 * torch.randint(0, 3, (501, 1), generator=generator)


def fit(folder: Path, callbacks: list[lightning.Callback], **trainer: object) -> MixtureModule:
    module = MixtureModule(GaussianMixture(3, 4), features(), OPTIONS)
    resumed = folder / "last.ckpt"
    lightning.Trainer(
        accelerator="cpu", max_epochs=OPTIONS.max_iter + 2, logger=False, enable_progress_bar=False,
        callbacks=[PassCheckpoint(resumed, 0), *callbacks], enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=folder, plugins=[AtomicCheckpointIO()], **trainer,
    ).fit(module, ckpt_path=resumed if resumed.exists() else None, weights_only=True)  # fmt: skip
    return module


@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning", "ignore:.*run with no optimizer.*")
@pytest.mark.parametrize(("rank", "by"), [(1, signal.SIGKILL), (0, signal.SIGTERM), (1, signal.SIGTERM)])
def test_when_a_process_dies_the_others_stop_and_the_fit_goes_on_from_its_checkpoint(tmp_path, rank, by):
    callbacks = [Dies(rank, by), EndOnSigterm()]
    with pytest.raises(ProcessExitedException, match=f"process {rank} terminated with signal {by.name}"):
        fit(tmp_path / "killed", callbacks, devices=2, strategy=without_gradients("ddp_spawn"))
    assert torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["epoch"] in (4, 5)
    resumed, alone = fit(tmp_path / "killed", []), fit(tmp_path / "alone", [])
    mine, theirs = (each.mixture.adopt(each.em) for each in (resumed, alone))
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
    assert resumed.em.n_iter == alone.em.n_iter == OPTIONS.max_iter
