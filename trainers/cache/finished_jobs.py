"""Jobs that are done are not done again."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gmm_torch.files import atomic_path
from trainers.cache.cache import Cache
from trainers.cache.keys import code_version, key, without

log = logging.getLogger(__name__)

JOB = "job.json"
# Hydra's own files, which a job has of its own, and what says where a result lies rather than what it is.
OWN = (".hydra", "*.log", "submitit*", JOB)
ELSEWHERE = ("hydra", "cache", "input")


def remember(cache: Cache, config: Mapping[str, Any], folder: Path, work: Callable[[], float | None]) -> float | None:
    """Do a job and keep its files in the cache; or, if it was done before, put them into its folder.

    Job and result know each other by a hash of the resolved config, of the files that it names and of the code. Data
    sets are known by their config alone: put changed images into another folder.

    Args:
        cache: shared by all jobs.
        config: resolved, plain.
        folder: of the job; `job.json` in there says whether the job ran.
        work: does the job, leaves its files in `folder` and returns the job's value.

    Returns:
        the value, now or then.
    """
    parts = without(config, *ELSEWHERE)
    kept = cache.folder / "jobs" / key("jobs", parts)
    with cache.locked(kept):
        if (kept / JOB).exists():
            found = json.loads((kept / JOB).read_text())
            _link_files(kept, folder)
            _write_job(folder, {**found, "reused": True})
            log.info("done before, in %s: nothing runs again", found["folder"])
            return found["value"]
        began = time.perf_counter()
        value = work()
        job = {
            "key": kept.name,
            "code": code_version(),
            "value": value,
            "seconds": round(time.perf_counter() - began, 3),
            "folder": os.fspath(folder.resolve()),
        }
        # Whole under its name, or not there: a job that is killed leaves a folder of another name at most.
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".unfinished-") as unfinished:
            whole = Path(unfinished) / "job"
            _link_files(folder, whole)
            _write_job(whole, job)
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(whole, kept)
    _write_job(folder, {**job, "reused": False})
    return value


def _link_files(source: Path, target: Path) -> None:
    """The same files under both folders: hard links, which take no space; copies between file systems."""

    def link(src: str, dst: str) -> None:
        Path(dst).unlink(missing_ok=True)
        try:
            os.link(src, dst)
        except OSError:
            shutil.copy2(src, dst)

    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*OWN), copy_function=link, dirs_exist_ok=True)


def _write_job(folder: Path, job: Mapping[str, Any]) -> None:
    with atomic_path(folder / JOB) as temporary:
        temporary.write_text(json.dumps(job, indent=1) + "\n")
