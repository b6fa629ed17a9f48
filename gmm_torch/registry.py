"""Classes that are found by their `name`: covariance families, initialisations, scores and calibrations."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def register(table: dict[str, type[T]], cls: type[T]) -> None:
    """Add a class with a `name` of its own, wherever it is defined; one without is a base for others.

    Raises:
        ValueError: another class has that name.
    """
    name = vars(cls).get("name")
    if name is None:
        return
    other = table.setdefault(name, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"name: expected one that is free; got {name!r}, the name of {other.__qualname__}")
    table[name] = cls


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that its classes register."""
    for module in pkgutil.iter_modules(path, f"{package}."):
        importlib.import_module(module.name)
