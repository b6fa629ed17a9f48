"""Processes of a test: forks of a server that has imported what they need, once for all tests of a worker."""

import multiprocessing
from collections.abc import Callable

import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(["gmm_torch", "torchmetrics", "pytest"])


def run_processes(work: Callable[..., None], arguments: tuple[object, ...], n: int) -> None:
    """Run `work(rank, *arguments)` in n processes, and wait for them; pass no tensor, whose memory they would share."""
    mp.start_processes(work, arguments, nprocs=n, start_method="forkserver")
