"""A sweep of 3 x 3 x 3 jobs killed half-way and begun again: what runs twice, and do its numbers stay?

    python benchmarks/resumed_sweep.py [FOLDER]

Mixtures x scores x seeds on scikit-learn's digits, each job cut down to seconds. The first process is killed by SIGKILL
once 13 jobs are done, in the middle of another. Writes `benchmarks/results/resumed_sweep.json` and the table of
`docs/sweeps.md`. What is counted are the files: `job.json` says whether a job ran, and files of the cache that were
there before must keep their times. Then the same sweep runs undisturbed and without a cache, and every number of every
job is compared with it: those of `metrics.json`, of `scores.csv` row by row, of both tensor files, and the job's value.
"""

import csv
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
from safetensors.torch import load_file

HALF = 13
CACHE = "paths.cache=cache"
OVERRIDES = (
    *("experiment=demo", "debug=fast", "attack=[fgsm]", "ood=[uniform_noise]", "trainer.enable_progress_bar=false"),
    *("mixture=full,diag,spherical", "score=log_likelihood,mahalanobis,max_softmax", "seed=0,1,2"),
)


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The sweep, in a process of its own, in that folder."""
    command = [sys.executable, "-W", "ignore", "-m", "trainers.main", "-m", *OVERRIDES]
    command += [*options, "hydra.sweep.dir=sweep"]
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


def leaves(value: object, name: str = "") -> dict[str, object]:
    """Every number and word of nested lists and mappings, by where it stands."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {} if isinstance(value, dict | list) else {name: value}
    for key, each in inside:
        found |= leaves(each, f"{name}/{key}")
    return found


def found_by(job: Path) -> dict[str, object]:
    """All that a job found, by where it stands."""
    with open(job / "scores.csv", newline="") as file:
        scores = list(csv.DictReader(file))
    found = leaves({"metrics": json.loads((job / "metrics.json").read_text()), "scores": scores})
    for name in ("classifier", "detector"):
        for key, tensor in load_file(job / f"{name}.safetensors").items():
            found |= {f"{name}/{key}/{i}": each for i, each in enumerate(tensor.flatten().tolist())}
    return found


def compare(one: Path, other: Path) -> dict:
    """How many numbers of the jobs of two sweeps were compared, and which differ."""
    jobs = sorted(path.parent.relative_to(one) for path in one.glob("*/metrics.json"))
    n, different = 0, {}
    for job in jobs:
        mine, reference = found_by(one / job), found_by(other / job)
        n += len(reference)
        wrong = sorted(key for key in mine.keys() | reference.keys() if repr(mine.get(key)) != repr(reference.get(key)))
        if wrong:
            different[str(job)] = wrong[:10]
    return {"jobs_compared": len(jobs), "numbers_compared": n, "jobs_that_differ": len(different), "where": different}


def measure(folder: Path) -> dict:
    """Kill the sweep half-way, begin it again, count, compare."""
    (folder / "undisturbed").mkdir()
    process = start(folder, CACHE)
    while len(jobs(folder)) < HALF:
        if process.poll() is not None:
            raise RuntimeError(f"the sweep ended by itself, with code {process.returncode}")
        time.sleep(0.05)
    time.sleep(0.5)  # into the next job
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before, files = jobs(folder), cached(folder)
    code = start(folder, CACHE).wait()
    after, kept = jobs(folder), cached(folder)
    done = {job["key"] for job in before}
    if start(folder / "undisturbed").wait() != 0:
        raise RuntimeError("the undisturbed sweep failed")
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
        **compare(folder / "sweep", folder / "undisturbed" / "sweep"),
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
        "jobs_compared": "jobs compared with an undisturbed sweep without a cache",
        "numbers_compared": "numbers in them",
        "jobs_that_differ": "jobs of which any number differs",
    }
    text = pages.table(("3 x 3 x 3 jobs", "count"), [(words, str(result[name])) for name, words in names.items()])
    versions = pages.versions_text(result["versions"])
    return text + f"\n\nSeeds 0, 1, 2; one process, CPU; {versions}."


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(measure(Path(sys.argv[1]).resolve()))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            write(measure(Path(scratch)))
