"""What an answer must not depend on: threads, global defaults, modes."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="equivalence-")  # goes when the process ends


def folder(name: str) -> Path:
    """A new empty folder of this process."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_scratch().name))


@contextmanager
def set_to(value: Any, get: Callable[[], Any], put: Callable[[Any], Any]) -> Iterator[None]:
    """A setting of the process at another value."""
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


threads = partial(set_to, get=torch.get_num_threads, put=torch.set_num_threads)
default_dtype = partial(set_to, get=torch.get_default_dtype, put=torch.set_default_dtype)


def within(context: Callable[[], Any], ask: Callable[[], Any]) -> Callable[[], Any]:
    """The question, asked within a context."""

    def inside() -> Any:
        with context():
            return ask()

    return inside


def bfloat16() -> Any:
    """Mixed precision as a user switches it on."""
    return torch.autocast("cpu", dtype=torch.bfloat16)
