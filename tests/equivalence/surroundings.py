"""What an answer must not depend on: threads, global defaults, modes."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
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
def threads(n: int) -> Iterator[None]:
    """So many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Another type of new tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def within(context: Callable[[], Any], ask: Callable[[], Any]) -> Callable[[], Any]:
    """The question, asked within a context."""

    def inside() -> Any:
        with context():
            return ask()

    return inside


def bfloat16() -> Any:
    """Mixed precision as a user switches it on."""
    return torch.autocast("cpu", dtype=torch.bfloat16)
