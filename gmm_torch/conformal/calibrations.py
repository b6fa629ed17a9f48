"""The calibrations by name. One file of this room holds one; a new one is found by its class's `name`."""

from typing import Any

from gmm_torch import conformal
from gmm_torch.conformal.calibration import CALIBRATIONS, Calibration
from gmm_torch.registry import find, import_modules

__all__ = ["CALIBRATIONS", "make_calibration"]

import_modules(conformal.__name__, conformal.__path__)


def make_calibration(name: str, **options: Any) -> Calibration:
    """A calibration without scores.

    Raises:
        ValueError: no calibration has that name.
    """
    return find(CALIBRATIONS, name, "calibration")(**options)
