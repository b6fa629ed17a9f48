"""How far long work is, for whoever watches a terminal."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def with_progress(values: Iterable[T], description: str, *, hidden: bool = False) -> Iterable[T]:
    """The values, with a bar on stderr that goes away at the end; without one where nobody watches, or if `hidden`."""
    console = Console(stderr=True)
    hidden = hidden or not console.is_terminal  # elsewhere an empty line would be left
    return track(values, description, console=console, transient=True, disable=hidden)
