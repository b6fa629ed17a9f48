"""Registry of classes by `name`: covariance families, initialisations, scores and calibrations."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def register(table: dict[str, type[T]], cls: type[T]) -> None:
    """Add a class that defines a `name`; one without is a base class.

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


def find(table: dict[str, type[T]], name: object, argument: str) -> type[T]:
    """The class of that name, for the argument that asks for it.

    Raises:
        ValueError: no class has that name.
    """
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"{argument}: expected one of {', '.join(sorted(table))}; got {name!r}")
    return table[name]


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that its classes register."""
    for module in pkgutil.iter_modules(path, f"{package}."):
        importlib.import_module(module.name)
