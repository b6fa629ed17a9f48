"""A process that dies takes the others with it, and the fit goes on from its checkpoint."""

import os
import signal
from pathlib import Path

import lightning
import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from gmm_torch import GaussianMixture
from gmm_torch.lightning.mixture_module import MixtureModule
from gmm_torch.mixture.options import EMOptions
from tests.processes import run_trainers
from trainers.callbacks.end_on_sigterm import EndOnSigterm
from trainers.callbacks.pass_checkpoint import PassCheckpoint
from trainers.run.strategies import without_gradients
from trainers.run.trainer import AtomicCheckpointIO

OPTIONS = EMOptions(max_iter=8, tol=0.0, seed=3)


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
        accelerator="cpu", max_epochs=module.em.n_passes, logger=False, enable_progress_bar=False,
        callbacks=[PassCheckpoint(resumed, 0), *callbacks], enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=folder, plugins=[AtomicCheckpointIO()], **trainer,
    ).fit(module, ckpt_path=resumed if resumed.exists() else None, weights_only=True)  # fmt: skip
    return module


def fit_as_one_of_two(folder: Path, rank: int, by: signal.Signals) -> None:
    fit(folder, [Dies(rank, by), EndOnSigterm()], devices=2, strategy=without_gradients("ddp"))


@pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning", "ignore:.*run with no optimizer.*")
@pytest.mark.parametrize(("rank", "by"), [(1, signal.SIGKILL), (0, signal.SIGTERM), (1, signal.SIGTERM)])
def test_when_a_process_dies_the_others_stop_and_the_fit_goes_on_from_its_checkpoint(tmp_path, rank, by):
    with pytest.raises(ProcessExitedException, match=f"process {rank} terminated with signal {by.name}"):
        run_trainers(fit_as_one_of_two, (tmp_path / "killed", rank, by))
    assert torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["epoch"] in (4, 5)
    resumed, alone = fit(tmp_path / "killed", []), fit(tmp_path / "alone", [])
    mine, theirs = (each.mixture.adopt(each.em) for each in (resumed, alone))
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
    assert resumed.em.n_iter == alone.em.n_iter == OPTIONS.max_iter
