"""Scores. One file holds one; a new file here is found by its class's `name`."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from gmm_torch.detection.scores.base import Fitter, Score

__all__ = ["SCORES", "Fitter", "Score", "make_score"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


def _scores(base: type[Score]) -> Iterator[type[Score]]:
    """All classes below `base` that have a name of their own."""
    for cls in base.__subclasses__():
        if "name" in vars(cls):
            yield cls
        yield from _scores(cls)


SCORES: dict[str, type[Score]] = {cls.name: cls for cls in sorted(_scores(Score), key=lambda cls: cls.name)}


def make_score(name: str, **options: Any) -> Score:
    """A score by name, with its constructor's options.

    Raises:
        ValueError: no score has that name.
    """
    if name not in SCORES:
        raise ValueError(f"score: expected one of {', '.join(SCORES)}; got {name!r}")
    return SCORES[name](**options)
