"""A folder of files that jobs share, each made by the first that needs it."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from gmm_torch.files import atomic_path, write_text
from trainers.cache.keys import key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """Files by the hash of what they were made from.

    Several jobs may use one folder at once: whoever comes first makes a file under a lock that ends with its process,
    others wait for it, and a file has its name only when it is whole.

    Args:
        folder: on a file system that all jobs see; created when missing.
    """

    folder: Path

    def file(
        self, kind: str, parts: Mapping[str, Any], code: Sequence[Any], suffix: str, make: Callable[[Path], object]
    ) -> Path:
        """The file made from `parts`; don't write to it.

        Args:
            kind: of file; the name of a folder.
            parts: what it depends on, see `key`; written beside it for people to read.
            code: classes and functions of ours that make it; it depends on their modules and what these import.
            make: called with a path to write it to, if it is not there.
        """
        path = self.folder / kind / f"{key(kind, parts, [each.__module__ for each in code])}{suffix}"
        with self.locked(path):
            if path.exists():
                log.info("%s: reused %s", kind, path)
                return path
            with atomic_path(path) as temporary:
                make(temporary)
            write_text(path.with_suffix(".json"), json.dumps(parts, indent=1, default=str) + "\n")
        return path

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Hold the lock of a path; says so once when another process has it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(os.fspath(path.with_suffix(".lock")))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another job that makes %s", path)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def shared_cache(cfg: DictConfig) -> Cache | None:
    """The cache of `paths.cache`; None without one, and for a job of several processes.

    The processes of one distributed job would wait for each other's locks.
    """
    if cfg.paths.cache is None:
        return None
    if cfg.trainer.get("devices", 1) != 1 or cfg.trainer.get("num_nodes", 1) != 1:
        log.warning("paths.cache: not used by a job of several processes")
        return None
    return Cache(Path(cfg.paths.cache).expanduser())
