"""Covariance families. One file holds one family; a new file here is found by its class's `name`."""

import importlib
import pkgutil

from gmm_torch.covariance.base import CovarianceFamily, Factors

__all__ = ["FAMILIES", "CovarianceFamily", "Factors", "get_family"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

FAMILIES: dict[str, CovarianceFamily] = {
    family.name: family() for family in sorted(CovarianceFamily.__subclasses__(), key=lambda cls: cls.name)
}


def get_family(name: str) -> CovarianceFamily:
    """The family called `name`.

    Raises:
        ValueError: no family has that name.
    """
    if name not in FAMILIES:
        raise ValueError(f"covariance_type: expected one of {', '.join(FAMILIES)}; got {name!r}")
    return FAMILIES[name]
