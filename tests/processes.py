"""Processes of a test: forks of a server that has imported what they need, once for all tests of a worker."""

import inspect
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

multiprocessing.set_forkserver_preload(["pytest", "trainers.main", "trainers.tasks.run", "trainers.tasks.score"])


def fork_server() -> None:
    """Make the server a fork of this process, where everything is imported already.

    Threads of OpenMP would not come along, so there may be none; a server that has not begun by now begins by itself.
    """
    if torch.get_num_threads() > 1 or "authkey_r" in inspect.signature(forkserver.main).parameters:
        return
    server, address = forkserver._forkserver, connection.arbitrary_address("AF_UNIX")
    resource_tracker.ensure_running()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        alive, ours = os.pipe()
        server._forkserver_pid = os.fork() or None
        if server._forkserver_pid is None:
            os.close(ours)  # the server ends when nobody holds it
            try:
                forkserver.main(listener.fileno(), alive, [])
            finally:
                os._exit(0)
        os.close(alive)
    server._forkserver_address, server._forkserver_alive_fd = address, ours


def run_processes(work: Callable[..., None], arguments: tuple[object, ...], n: int) -> None:
    """Run `work(rank, *arguments)` in n processes, and wait for them; pass no tensor, whose memory they would share."""
    mp.start_processes(work, arguments, nprocs=n, start_method="forkserver")


def run_trainers(work: Callable[..., None], arguments: tuple[object, ...], n: int = 2) -> None:
    """Run `work(*arguments)` in n processes, in each of which a Trainer with `strategy="ddp"` finds the others.

    For Lightning they are processes that somebody else has started, as torchrun does.
    """
    run_processes(_as_one_of, (find_free_network_port(), work, arguments), n)


def _as_one_of(rank: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    work(*arguments)


def started(work: Callable[..., None], arguments: tuple[object, ...], folder: Path, said: Path) -> BaseProcess:
    """A process that runs `work(*arguments)` in a folder, and writes what it says to a file."""
    process = multiprocessing.get_context("forkserver").Process(target=_speaking, args=(work, arguments, folder, said))
    process.start()
    return process


def torchrun(work: Callable[..., None], *arguments: object) -> None:
    """What `torchrun --standalone --nproc-per-node 2` does, with forks for its processes: for one that is `started`."""
    fork_server()  # that of the worker is not known here
    alone = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "two", "max_restarts": 0}
    elastic_launch(LaunchConfig(1, 1, 2, start_method="forkserver", **alone), work)(*arguments)


def application(*words: str) -> None:
    """What `gmm-torch` does with these words behind it."""
    from trainers.main import main

    sys.argv = ["gmm-torch", *words]
    main()


def pytest_in(folder: str, *words: str) -> None:
    """What `pytest` does where a folder is searched first, with this project's modules imported anew."""
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.partition(".")[0] in ("gmm_torch", "tests")]:
        del sys.modules[name]
    sys.exit(pytest.main(list(words)))


def _speaking(work: Callable[..., None], arguments: tuple[object, ...], folder: Path, said: Path) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    with open(said, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    work(*arguments)
