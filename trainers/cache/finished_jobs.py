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

from gmm_torch.files import write_text
from trainers.cache.cache import Cache
from trainers.cache.keys import key, without
from trainers.cache.run_folder import LOCK, begin_like
from trainers.cache.sources import code_version

log = logging.getLogger(__name__)

JOB = "job.json"
# Hydra's own files, which a job has of its own, what says where a result lies rather than what it is, and a logger's
# database, which is written in place.
OWN = (".hydra", "*.log", "submitit*", "mlflow", JOB, LOCK)
ELSEWHERE = ("hydra", "paths", "input")


def remember(cache: Cache, config: Mapping[str, Any], folder: Path, work: Callable[[], float | None]) -> float | None:
    """Do a job and keep its files in the cache; or, if it was done before, put them into its folder.

    Job and result know each other by a hash of the resolved config, of the files that it names and of the code. Data
    sets are known by their config alone: put changed images into another folder.

    Args:
        config: resolved, plain.
        folder: of the job; `job.json` in there says whether the job ran.
        work: does the job, leaves its files in `folder` and returns the job's value: what is returned, now or later.
    """
    parts = without(config, *ELSEWHERE)
    kept = cache.folder / "jobs" / key("jobs", parts, None)
    with cache.locked(kept):
        if (kept / JOB).exists():
            found = json.loads((kept / JOB).read_text())
            begin_like(folder, kept)
            _link_files(kept, folder)
            _write_job(folder, {**found, "reused": True})
            log.info("done before, in %s: nothing runs again", found["folder"])
            return found["value"]
        (folder / JOB).unlink(missing_ok=True)
        before = _states(folder)
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
            _link_files(folder, whole, left_out=before, without=cache.folder.resolve())
            _write_job(whole, job)
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(whole, kept)
    _write_job(folder, {**job, "reused": False})
    return value


def _states(folder: Path) -> dict[Path, tuple[int, int]]:
    """What tells a file from one that is written in its place, for every file below a folder."""
    found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): (state.st_ino, state.st_mtime_ns) for path, state in found}


def _link_files(
    source: Path, target: Path, left_out: Mapping[Path, tuple[int, int]] | None = None, without: Path | None = None
) -> None:
    """The same files under both folders: hard links, which take no space; copies between file systems.

    Not linked are the files `left_out` that are as they were then, which other runs left, and the folder `without`.
    """
    unchanged = (left_out or {}).items() & _states(source).items()
    others = {source / path for path, _ in unchanged}

    def ignored(place: str, names: list[str]) -> set[str]:
        paths = {name: Path(place, name) for name in names}
        found = {name for name, path in paths.items() if path in others or path.resolve() == without}
        return found | set(shutil.ignore_patterns(*OWN)(place, names))

    def link(src: str, dst: str) -> None:
        Path(dst).unlink(missing_ok=True)
        try:
            os.link(src, dst)
        except OSError:
            shutil.copy2(src, dst)

    shutil.copytree(source, target, ignore=ignored, copy_function=link, dirs_exist_ok=True)


def _write_job(folder: Path, job: Mapping[str, Any]) -> None:
    write_text(folder / JOB, json.dumps(job, indent=1) + "\n")
