"""Covariance families, one per file; a new file here is found by its class's `name`."""

import inspect
from collections.abc import Mapping
from typing import Any

from gmm_torch.mixture.covariance.base import FAMILIES, CovarianceFamily, Factors
from gmm_torch.registry import find, import_modules

__all__ = ["FAMILIES", "CovarianceFamily", "CovarianceType", "Factors", "get_family"]

import_modules(__name__, __path__)

# The name of a family, or a mapping of "name" and constructor options: {"name": "low_rank", "rank": 20}.
CovarianceType = str | Mapping[str, Any]


def get_family(covariance_type: CovarianceType) -> CovarianceFamily:
    """The family with that name and options; ValueError for an unknown name, option or value."""
    options = dict(covariance_type) if isinstance(covariance_type, Mapping) else {"name": covariance_type}
    name = options.pop("name", None)
    family = find(FAMILIES, name, "covariance_type")
    unknown = sorted(map(str, options.keys() - inspect.signature(family).parameters.keys())) if options else []
    if unknown:
        raise ValueError(f"covariance_type: expected options of {name!r}; got the unknown {', '.join(unknown)}")
    return family(**options)
