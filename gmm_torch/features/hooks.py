"""Hooks on a classifier that another thread may run meanwhile."""

from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that hears of the passes of the thread that makes it alone, and leaves those of others as they are."""
    if torch.compiler.is_compiling():
        return hook
    own = get_ident()

    def heard(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if get_ident() == own else None

    return heard
