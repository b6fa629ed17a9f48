"""The calibrations by name. One file of this room holds one; a new one is found by its class's `name`."""

import importlib
import pkgutil
from typing import Any

from gmm_torch import conformal
from gmm_torch.conformal.calibration import CALIBRATIONS, Calibration

__all__ = ["CALIBRATIONS", "make_calibration"]

for _module in pkgutil.iter_modules(conformal.__path__, f"{conformal.__name__}."):
    if _module.name != __name__:
        importlib.import_module(_module.name)


def make_calibration(name: str, **options: Any) -> Calibration:
    """A calibration without scores.

    Raises:
        ValueError: no calibration has that name.
    """
    if name not in CALIBRATIONS:
        raise ValueError(f"calibration: expected one of {', '.join(sorted(CALIBRATIONS))}; got {name!r}")
    return CALIBRATIONS[name](**options)
