"""Scores. One file holds one; a new file here is found by its class's `name`."""

import importlib
import pkgutil
from typing import Any

from gmm_torch.detection.scores.base import SCORES, Fitter, Score

__all__ = ["SCORES", "Fitter", "Score", "make_score"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


def make_score(name: str, **options: Any) -> Score:
    """A score by name, with its constructor's options.

    Raises:
        ValueError: no score has that name.
    """
    if name not in SCORES:
        raise ValueError(f"score: expected one of {', '.join(sorted(SCORES))}; got {name!r}")
    return SCORES[name](**options)
