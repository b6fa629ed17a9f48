"""The application's configuration, as a command composes it."""

import copy
from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from trainers.main import CONF


def configure(*overrides: str) -> DictConfig:
    """A configuration of the caller's own; the same words are composed once."""
    return copy.deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))
