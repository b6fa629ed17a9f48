"""Scores. One file holds one; a new file here is found by its class's `name`."""

from typing import Any

from gmm_torch.registry import find, import_modules
from gmm_torch.scores.base import SCORES, Fitter, Score

__all__ = ["SCORES", "Fitter", "Score", "make_score"]

import_modules(__name__, __path__)


def make_score(name: str, **options: Any) -> Score:
    """A score by name, with its constructor's options.

    Raises:
        ValueError: no score has that name.
    """
    return find(SCORES, name, "score")(**options)
