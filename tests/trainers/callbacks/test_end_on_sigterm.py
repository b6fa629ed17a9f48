"""SIGTERM while Lightning works. The fit in two processes is in tests/faults."""

import signal
import subprocess
import sys

import lightning
import torch
from torch.utils.data import DataLoader

from tests.contracts.test_configs import configure
from trainers.callbacks.end_on_sigterm import EndOnSigterm
from trainers.run.run import Run

ENDS_ITSELF = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader
from tests.trainers.callbacks.test_end_on_sigterm import Handler, trainer

class Ends(Handler):
    def predict_step(self, batch, batch_idx):
        print("batch", batch_idx, flush=True)
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)

trainer(sys.argv[1]).predict(Ends(), DataLoader(torch.zeros(8, 1)))
"""


class Handler(lightning.LightningModule):
    """Remembers what would handle SIGTERM."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.handler: object = None

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.handler = signal.getsignal(signal.SIGTERM)
        return (self.weight * batch).sum()

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.handler = signal.getsignal(signal.SIGTERM)
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: object) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=str(folder),
        callbacks=[EndOnSigterm()],
    )  # fmt: skip


def test_a_prediction_ends_at_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ENDS_ITSELF, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGTERM
    assert [line for line in done.stdout.splitlines() if line.startswith("batch")] == ["batch 0", "batch 1", "batch 2"]


def test_what_handled_it_before_does_so_afterwards(tmp_path):
    before, module = signal.getsignal(signal.SIGTERM), Handler()
    trainer(tmp_path).predict(module, DataLoader(torch.zeros(4, 1)))
    assert module.handler == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_in_one_process_is_left_to_lightning(tmp_path):
    module = Handler()
    trainer(tmp_path).fit(module, DataLoader(torch.zeros(4, 1)))
    assert callable(module.handler)
    assert module.handler != signal.SIG_DFL


def test_every_run_has_it(tmp_path):
    run = Run(configure("task=train"), tmp_path)
    for made in (run.trainer(), run.predictor):
        assert [type(callback) for callback in made.callbacks].count(EndOnSigterm) == 1
