"""A sweep of 3 x 3 x 3 jobs killed half-way and begun again: what runs twice?

    python benchmarks/resumed_sweep.py [FOLDER]

Mixtures x scores x seeds on scikit-learn's digits, each job cut down to seconds. The first process is killed by SIGKILL
once 13 jobs are done, in the middle of another. Writes `benchmarks/results/resumed_sweep.json` and the table of
`docs/sweeps.md`. What is counted are the files: `job.json` says whether a job ran, and files of the cache that were
there before must keep their times.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pages

HALF, ALL = 13, 27
OVERRIDES = (
    *("experiment=demo", "debug=fast", "attack=[fgsm]", "ood=[uniform_noise]", "trainer.enable_progress_bar=false"),
    *("mixture=full,diag,spherical", "score=log_likelihood,relative_likelihood,typicality", "seed=0,1,2"),
)


def start(folder: Path) -> subprocess.Popen[str]:
    """The sweep, in a process of its own, in that folder."""
    command = [sys.executable, "-W", "ignore", "-m", "trainers.main", "-m", *OVERRIDES]
    command += ["cache=cache", "hydra.sweep.dir=sweep"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(pages.ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )


def jobs(folder: Path) -> list[dict]:
    """What the jobs say that are done."""
    return [json.loads(path.read_text()) for path in sorted((folder / "sweep").glob("*/job.json"))]


def cached(folder: Path) -> dict[str, int]:
    """The cached files and when they were written."""
    found = list((folder / "cache").glob("*/*.safetensors"))
    found += (folder / "cache" / "jobs").glob("*/job.json")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def measure(folder: Path) -> dict:
    """Kill the sweep half-way, begin it again, count."""
    process = start(folder)
    while len(jobs(folder)) < HALF:
        if process.poll() is not None:
            raise RuntimeError(f"the sweep ended by itself, with code {process.returncode}")
        time.sleep(0.05)
    time.sleep(0.5)  # into the next job
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before, files = jobs(folder), cached(folder)
    code = start(folder).wait()
    after, kept = jobs(folder), cached(folder)
    done = {job["key"] for job in before}
    return {
        "overrides": list(OVERRIDES),
        "jobs": len(after),
        "distinct_jobs": len({job["key"] for job in after}),
        "exit_code": code,
        "done_when_killed": len(done),
        "ran_again_though_done": sum(job["key"] in done and not job["reused"] for job in after),
        "ran_after": sum(not job["reused"] for job in after),
        "files_in_cache_when_killed": len(files),
        "of_them_written_again": sum(kept.get(name) != when for name, when in files.items()),
        "classifiers_trained": sum(name.startswith("cache/classifiers/") for name in kept),
        "attacks_run": sum(name.startswith("cache/attacks/") for name in kept),
        "median_job_seconds": sorted(job["seconds"] for job in after)[len(after) // 2],
        "versions": {name: version(name) for name in ("gmm_torch", "torch", "hydra-core")},
    }


def write(result: dict) -> None:
    """JSON and page."""
    pages.save(pages.RESULTS / "resumed_sweep.json", result)
    pages.fill(pages.ROOT / "docs" / "sweeps.md", "resumed_sweep", markdown(result))


def markdown(result: dict) -> str:
    """The counts."""
    names = {
        "jobs": "jobs",
        "done_when_killed": "done when the sweep was killed",
        "ran_again_though_done": "of these, run again",
        "ran_after": "run after it was begun again",
        "classifiers_trained": "classifiers trained in all",
        "attacks_run": "attacks run in all",
        "files_in_cache_when_killed": "files in the cache when it was killed",
        "of_them_written_again": "of these, written again",
    }
    text = pages.table(("3 x 3 x 3 jobs", "count"), [(words, str(result[name])) for name, words in names.items()])
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return text + f"\n\nSeeds 0, 1, 2; one process, CPU; {versions}."


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(measure(Path(sys.argv[1]).resolve()))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            write(measure(Path(scratch)))
