"""The cache that a config names."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from trainers.cache.cache import Cache

log = logging.getLogger(__name__)


def shared_cache(cfg: DictConfig) -> Cache | None:
    """The cache of `cfg.paths.cache`; None without one, and for a job of several processes.

    The processes of one distributed job would wait for each other's locks.
    """
    if cfg.paths.cache is None:
        return None
    if cfg.trainer.get("devices", 1) != 1 or cfg.trainer.get("num_nodes", 1) != 1:
        log.warning("paths.cache: not used by a job of several processes")
        return None
    return Cache(Path(cfg.paths.cache).expanduser())
