"""Work that is killed at random moments and begun again.

    python -m tests.faults.kills --kills 50 [--only training ...]

Prints one line of JSON for each problem. The process imports everything once, has one thread, and forks for each run.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from PIL import Image
from safetensors import safe_open

from gmm_torch import GaussianMixture
from gmm_torch.lightning.mixture_module import MixtureModule
from gmm_torch.mixture.options import EMOptions
from tests.configuration import configure
from trainers import main as app
from trainers.callbacks.pass_checkpoint import PassCheckpoint
from trainers.run.job import quieten, run_task
from trainers.run.trainer import AtomicCheckpointIO

QUIET = ("trainer=cpu", "trainer.enable_progress_bar=false")


@dataclass(frozen=True)
class Problem:
    """Something long.

    Attributes:
        name: what it is called.
        work: does it in a folder, going on from what is there; the number says how often it was begun.
        result: the files, relative to the folder, that must come out the same.
        prepare: what there has to be first, in a folder that all runs share.
    """

    name: str
    work: Callable[[Path, Path, int], None]
    result: Callable[[Path], Mapping[str, bytes]]
    prepare: Callable[[Path], None] = lambda shared: None


def forked(work: Callable[[], None], log: Path, seconds: float | None = None) -> tuple[bool, float]:
    """Run in a fork, which is killed after so many seconds; whether it ended by itself, and when."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            work()
            (log.parent / "modules").write_text("\n".join(sys.modules))
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if seconds is not None and time.perf_counter() - began > seconds:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            break
        time.sleep(0.002)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"the work failed:\n{log.read_text()[-3000:]}")
    return os.WIFEXITED(status), time.perf_counter() - began


def half_written(folder: Path) -> list[str]:
    """Files under their final names that can't be read; what is still being written lies in hidden folders."""
    bad = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") and "-" in part for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
            elif path.suffix in (".ckpt", ".pt"):
                torch.load(path, weights_only=True)
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except Exception as error:
            bad.append(f"{path.relative_to(folder)}: {error}")
    return bad


def kill(problem: Problem, n_kills: int, seed: int, place: Path) -> dict[str, Any]:
    """Kill the problem's work at random moments, each time in a new folder; begin again until it ends; compare.

    Returns:
        counts: kills, those that came before the end, runs with the same result, half-written files; and the moments.
    """
    rng = random.Random(f"{problem.name} {seed}")
    shared, log = place / "shared", place / "log"
    shared.mkdir(parents=True)
    forked(lambda: problem.prepare(shared), log)
    for attempt in ("first", "undisturbed"):  # the first run says what else there is to import
        folder = place / attempt
        _, seconds = forked(lambda folder=folder: problem.work(folder, shared, 0), log)
        for name in (place / "modules").read_text().split("\n"):
            try:
                importlib.import_module(name)
            except Exception:
                continue
    expected = problem.result(folder)
    assert expected, "no result to compare with"
    assert problem.result(place / "first") == expected, f"{problem.name}: two undisturbed runs differ"
    row: dict[str, Any] = {"problem": problem.name, "kills": 0, "before_the_end": 0, "same": 0, "half_written": 0}
    row |= {"seconds": seconds, "moments": [], "wrong": []}
    for i in range(n_kills):
        folder, moment = place / str(i), rng.uniform(0, seconds)
        ended, _ = forked(lambda folder=folder: problem.work(folder, shared, 0), log, moment)
        row["kills"] += 1
        row["before_the_end"] += not ended
        row["moments"].append(round(moment, 3))
        bad = half_written(folder)
        row["half_written"] += len(bad)
        begun = 1
        while not ended:
            ended, _ = forked(lambda folder=folder, n=begun: problem.work(folder, shared, n), log)
            begun += 1
        same = problem.result(folder) == expected
        row["same"] += same
        if bad or not same:
            row["wrong"].append({"moment": moment, "half_written": bad, "same": same})
        shutil.rmtree(folder)
    return row


def _bytes(folder: Path, *patterns: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in patterns for path in sorted(folder.glob(pattern))}


def _without_times(folder: Path) -> dict[str, bytes]:
    """What a sweep's jobs found; `job.json` says when and where, too."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/detector.safetensors"))}
    jobs = sorted(folder.glob("*/job.json"))
    return found | {str(path.relative_to(folder)): str(json.loads(path.read_text())["value"]).encode() for path in jobs}


# ---- the classifier's training

TRAINING = (
    *("data=digits", "task=train", "data.batch_size=128", "seed=1"),
    *("trainer.max_epochs=5", "+trainer.limit_train_batches=4", *QUIET),
)


def _train(folder: Path, shared: Path, begun: int) -> None:
    """Every other time it is resumed in another folder."""
    last = folder / "checkpoints" / "last.ckpt"
    more = [f"resume={last}"] if last.exists() else []
    elsewhere = more and int(folder.name) % 2 if folder.name.isdigit() else False
    run = folder / "resumed" if elsewhere else folder
    run_task(configure(*TRAINING, *more), run)
    if elsewhere:
        shutil.copyfile(run / "classifier.safetensors", folder / "classifier.safetensors")


# ---- EM


def _em(folder: Path, shared: Path, begun: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4_000, 8, generator=generator) + 3 * torch.randint(0, 4, (4_000, 1), generator=generator)
    mixture, options = GaussianMixture(8, 8), EMOptions(max_iter=30, tol=0.0, seed=3)
    last = folder / "last.ckpt"
    module = MixtureModule(mixture, x, options)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=module.em.n_passes, logger=False, callbacks=[PassCheckpoint(last, 0)],
        enable_progress_bar=False, enable_model_summary=False, plugins=[AtomicCheckpointIO()], default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
    state = mixture.adopt(module.em).state_dict()
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()
    (folder / "mixture.txt").write_text(digest)


# ---- extraction, fit and calibration, with a cache

FITTING = ("data=digits", "task=fit", "score=log_likelihood", "mixture.n_components=3", *QUIET)


def _weights(shared: Path) -> None:
    run_task(configure(*TRAINING, "trainer.max_epochs=2"), shared / "trained")


def _fit(folder: Path, shared: Path, begun: int) -> None:
    checkpoint = f"classifier.checkpoint={shared / 'trained' / 'classifier.safetensors'}"
    run_task(configure(*FITTING, checkpoint, f"paths.cache={folder / 'cache'}"), folder / "run")


# ---- a sweep


def _sweep(folder: Path, shared: Path, begun: int) -> None:
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    checkpoint = f"classifier.checkpoint={shared / 'trained' / 'classifier.safetensors'}"
    what = ("score=max_softmax,log_likelihood", "detector.alpha=0.05,0.1", "hydra.sweep.dir=swept", "paths.cache=cache")
    options = [option for option in FITTING if not option.startswith("score=")]
    sys.argv = ["gmm-torch", "--multirun", *options, checkpoint, *what]
    app.main()


# ---- scoring of files


N_IMAGES = 200


def _detector(shared: Path) -> None:
    _weights(shared)
    _fit(shared / "fitted", shared, 0)
    (shared / "images").mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(N_IMAGES):
        pixels = torch.randint(0, 255, (8, 8), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(shared / "images" / f"{i:03}.png")


def _score(folder: Path, shared: Path, begun: int) -> None:
    folder.mkdir(exist_ok=True)
    checkpoint = f"classifier.checkpoint={shared / 'trained' / 'classifier.safetensors'}"
    detector = f"checkpoint={shared / 'fitted' / 'run' / 'detector.safetensors'}"
    where = (f"input={shared / 'images'}", f"output={folder / 'verdicts.csv'}")
    options = ("data=digits", "task=score", "data.batch_size=4", *QUIET)
    run_task(configure(*options, checkpoint, detector, *where), folder / f"run-{begun}")


PROBLEMS = (
    Problem("classifier training", _train, lambda folder: _bytes(folder, "classifier.safetensors")),
    Problem("EM", _em, lambda folder: _bytes(folder, "mixture.txt")),
    Problem(
        "features, fit, calibration", _fit, lambda folder: _bytes(folder / "run", "detector.safetensors"), _weights
    ),
    Problem("sweep of four jobs", _sweep, lambda folder: _without_times(folder / "swept"), _weights),
    Problem(f"scoring of {N_IMAGES} images", _score, lambda folder: _bytes(folder, "verdicts.csv"), _detector),
)


def main(words: Sequence[str] | None = None) -> None:
    """Kill each problem's work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    quieten()
    for problem in PROBLEMS:
        if arguments.only and not any(word in problem.name for word in arguments.only):
            continue
        with tempfile.TemporaryDirectory() as place:
            row = kill(problem, arguments.kills, arguments.seed, Path(place))
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
