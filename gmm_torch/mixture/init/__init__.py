"""Initialisations. One file holds one; a new file here is found by its `Initialisation`'s `name`."""

from gmm_torch.mixture.init.base import INITIALISATIONS, Initialisation
from gmm_torch.registry import find, import_modules

__all__ = ["INITIALISATIONS", "Initialisation", "get_initialisation"]

import_modules(__name__, __path__)


def get_initialisation(name: str) -> Initialisation:
    """The initialisation called `name`.

    Raises:
        ValueError: none has that name.
    """
    return find(INITIALISATIONS, name, "init_params")()
