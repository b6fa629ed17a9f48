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
    """The family called `name`, which may carry an option behind a colon ("low_rank:20").

    Raises:
        ValueError: no family has that name, or the family not that option.
    """
    base, colon, option = name.partition(":")
    if base not in FAMILIES:
        raise ValueError(f"covariance_type: expected one of {', '.join(FAMILIES)}; got {name!r}")
    return FAMILIES[base].with_option(option) if colon else FAMILIES[base]
