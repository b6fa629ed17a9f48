"""A run's folder: one run at a time, and no result in it that is of another run than the files beside it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gmm_torch.files import write_text

LOCK = ".lock"
CONFIG, PENDING = "config.yaml", ".config.yaml"
WEIGHTS = "classifier.safetensors"
DETECTOR = "detector.safetensors"
CHECKPOINTS = "checkpoints"
# What each stage leaves. Every stage works on what the one before it left.
STAGES = {
    "train": (WEIGHTS,),
    "fit": (DETECTOR,),
    "evaluate": ("metrics.json", "timings.json", "scores.csv", "evasion.csv", "benchmark.md", "report.html"),
}


@contextmanager
def config_of(folder: Path, text: str) -> Iterator[None]:
    """Write a run's config as `config.yaml` once a stage begins, or at the end of a run that has none.

    What is refused before any stage begins leaves the results of an earlier run beside the config that they are of.
    """
    if not _is_first():
        yield
        return
    try:
        write_text(folder / PENDING, text)
        yield
        _settle_config(folder)
    finally:
        (folder / PENDING).unlink(missing_ok=True)


def _settle_config(folder: Path) -> None:
    if (folder / PENDING).exists():
        (folder / PENDING).replace(folder / CONFIG)


def begin_stage(folder: Path, stage: str) -> None:
    """Remove what an earlier run left of this stage, one of `STAGES`, and of those that follow from it.

    A run that is killed then leaves no numbers of another configuration beside its own `config.yaml`, and a stage that
    has nothing to say leaves no file that says something.
    """
    if not _is_first():  # the first process of several has
        return
    _settle_config(folder)
    names = list(STAGES)
    for each in names[names.index(stage) :]:
        for name in STAGES[each]:
            (folder / name).unlink(missing_ok=True)


def begin_training(folder: Path, *, resumed: bool) -> None:
    """`begin_stage` of a training; one that is not resumed also removes the checkpoints of an earlier one."""
    begin_stage(folder, "train")
    if not resumed and _is_first():
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def begin_like(folder: Path, finished: Path) -> None:
    """Remove from a folder what a run would that leaves the files of `finished`."""
    stages = [stage for stage, names in STAGES.items() if any((finished / name).exists() for name in names)]
    if stages[:1] == ["train"]:
        begin_training(folder, resumed=False)
    elif stages:
        begin_stage(folder, stages[0])


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run's folder, whose files another run would mix with its own; ValueError where one, at work, holds it."""
    if not _is_first():  # several processes of one run share its folder
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"expected a folder that no other run is writing to; got {folder}, which one still is: wait for it, or "
            "set another hydra.run.dir=..."
        ) from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _is_first() -> bool:
    """Whether this is the only process of the run, or the one that started the others."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0
