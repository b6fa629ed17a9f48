"""The application's configuration, for the benchmarks that run it."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from trainers.main import CONF


def composed(*overrides: str) -> DictConfig:
    """What the command `gmm-torch` with these arguments would run."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))
