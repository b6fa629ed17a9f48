"""SIGTERM while Lightning works. The fit in two processes is in tests/faults."""

import os
import signal

import lightning
import torch
from torch.utils.data import DataLoader

from tests.configuration import configure
from tests.processes import started
from trainers.callbacks.end_on_sigterm import EndOnSigterm
from trainers.run.run import Run


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


class Ends(Handler):
    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        print("batch", batch_idx, flush=True)  # noqa: T201 - to whoever started it
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def trainer(folder: object) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=str(folder),
        callbacks=[EndOnSigterm()],
    )  # fmt: skip


def predict(folder: object) -> None:
    trainer(folder).predict(Ends(), DataLoader(torch.zeros(8, 1)))


def test_a_prediction_ends_at_once(tmp_path):
    process = started(predict, (tmp_path,), tmp_path, tmp_path / "said")
    process.join(120)
    assert process.exitcode == -signal.SIGTERM
    said = (tmp_path / "said").read_text().splitlines()
    assert [line for line in said if line.startswith("batch")] == ["batch 0", "batch 1", "batch 2"]


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
