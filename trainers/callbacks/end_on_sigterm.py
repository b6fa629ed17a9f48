"""SIGTERM, where Lightning's handler of it does not end the process."""

import os
import signal
import threading
from types import FrameType

import lightning
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import ParallelStrategy


class EndOnSigterm(lightning.Callback):
    """Ends a prediction, and one of several processes with those that it started, on SIGTERM, as SIGKILL would.

    Lightning's own handler makes a note that only loops of training and evaluation look at, and among several processes
    broadcasts it from inside the signal, between whatever collectives they are in, which can wait until the backend's
    timeout. What is in files by then stays; other processes stop when they next communicate. Lightning keeps training
    and evaluation in one process, which end after the batch, and SLURM with requeueing, where it saves and requeues.
    """

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the place of Lightning's handler, which it has installed by now and removes when it is done."""
        if trainer.world_size > 1:
            _end_on_sigterm(trainer)

    on_validation_start = on_test_start = on_train_start

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Likewise, in one process too."""
        _end_on_sigterm(trainer)


def _end_on_sigterm(trainer: lightning.Trainer) -> None:
    strategy = trainer.strategy
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    requeued = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
    if requeued or threading.current_thread() is not threading.main_thread():
        return
    launcher = strategy.launcher
    if trainer.local_rank > 0 or launcher is None:  # started nothing: so a collective that hangs can't keep it, either
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return

    def end(signum: int, _: FrameType | None) -> None:
        launcher.kill(signum)
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, end)
