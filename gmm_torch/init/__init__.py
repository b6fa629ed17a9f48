"""Initialisations. One file holds one; a new file here is found by its `Initialisation`'s `name`."""

import importlib
import pkgutil

from gmm_torch.init.base import Initialisation

__all__ = ["INITIALISATIONS", "Initialisation", "get_initialisation"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

INITIALISATIONS: dict[str, Initialisation] = {
    cls.name: cls() for cls in sorted(Initialisation.__subclasses__(), key=lambda cls: cls.name)
}


def get_initialisation(name: str) -> Initialisation:
    """The initialisation called `name`.

    Raises:
        ValueError: none has that name.
    """
    if name not in INITIALISATIONS:
        raise ValueError(f"init_params: expected one of {', '.join(INITIALISATIONS)}; got {name!r}")
    return INITIALISATIONS[name]
