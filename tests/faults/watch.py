"""Watching a call: how long it takes, how much memory it asks for, and whether it runs what a file told it to."""

import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HANG_SECONDS = 5
EXTRA_BYTES = 2**30  # address space beyond what the process has when the watch begins

# What reading a file never has to do. `pickle.find_class` is a pickle's way to every callable there is.
FORBIDDEN = {
    "pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.remove", "os.chmod",
    "subprocess.Popen", "pty.spawn", "socket.connect", "socket.bind", "ctypes.dlopen", "urllib.Request",
}  # fmt: skip

_watching = threading.local()


class CodeRan(AssertionError):
    """Reading a file did what only code does."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in FORBIDDEN and getattr(_watching, "on", False):
        raise CodeRan(f"{event} {arguments!r}")


_installed = False


@contextmanager
def no_code() -> Iterator[None]:
    """Raise `CodeRan` where the block does anything of `FORBIDDEN` in this thread."""
    global _installed
    if not _installed:  # an audit hook stays for good
        sys.addaudithook(_hook)
        _installed = True
    _watching.on = True
    try:
        yield
    finally:
        _watching.on = False


@contextmanager
def bounded_memory(extra: int = EXTRA_BYTES) -> Iterator[None]:
    """Let the process ask for no more than `extra` bytes of address space beyond what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Hang(AssertionError):
    """Reading a file took too long."""


@contextmanager
def no_hang(seconds: float = HANG_SECONDS) -> Iterator[None]:
    """Raise `Hang` where the block takes more computing time; a machine that is merely busy does not count."""

    def stop(signum: int, frame: Any) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
