"""What a task requires."""

from typing import Any


def require(value: Any, key: str, reason: str) -> None:
    """Raise ValueError, with what to set, where a setting is null."""
    if value is None:
        raise ValueError(f"{reason}: set {key}=...")
