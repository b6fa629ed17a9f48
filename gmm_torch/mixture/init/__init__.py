"""Initialisations, one per file; a new file here is found by its class's `name`."""

from gmm_torch.mixture.init.base import INITIALISATIONS, Initialisation
from gmm_torch.registry import find, import_modules

__all__ = ["INITIALISATIONS", "Initialisation", "get_initialisation"]

import_modules(__name__, __path__)


def get_initialisation(name: str) -> Initialisation:
    """The initialisation called `name`; ValueError for an unknown name."""
    return find(INITIALISATIONS, name, "init_params")()
