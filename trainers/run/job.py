"""One job: a task with its resolved configuration, in a folder of its own."""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gmm_torch.errors import DriftError, FileFormatError, NotFittedError, SolverError
from trainers.cache import remember, shared_cache
from trainers.cache.run_folder import claimed, config_of
from trainers.classifiers.preprocessing import describe
from trainers.data.errors import DataError, DataNotFoundError
from trainers.run.requirements import require_all, require_numbers

# What a user can mend; anything else is a defect of ours and keeps its traceback.
USER_ERRORS = (
    DataError, DriftError, FileFormatError, NotFittedError, SolverError, OSError, FloatingPointError, ValueError,
)  # fmt: skip

log = logging.getLogger(__name__)


def quieten() -> None:
    """Leave out what Lightning and warnings say about the machine; errors and our own lines stay.

    A warning is told by its message alone, without the line of the program that gives it, and once.
    """
    parts = ("", ".pytorch", ".fabric", ".pytorch.utilities.rank_zero")
    for name in (*(f"lightning{part}" for part in parts), "alembic"):  # the last is of MLflow's store
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*this fit will run with no optimizer.*",
        ".*does not need a `?dataloader.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.showwarning = _telling_once()


def _telling_once() -> Callable[..., None]:
    told: set[str] = set()

    def tell(message: Warning | str, *_: object, **__: object) -> None:
        if (said := str(message)) not in told:
            told.add(said)
            log.warning("%s", said)

    return tell


def run_task(cfg: DictConfig, folder: Path) -> float | None:
    """Write the resolved config into the folder and run the task on it; the value that a sweeper maximises, if any.

    With `paths.cache` it is that of the same job, if that was done before.
    """
    require_all(cfg)
    OmegaConf.resolve(cfg)
    require_numbers(cfg)
    with claimed(folder), config_of(folder, OmegaConf.to_yaml(cfg)):
        return _run_task(cfg, folder)


def _run_task(cfg: DictConfig, folder: Path) -> float | None:
    preprocessing = describe(cfg)
    if preprocessing:
        log.info("preprocessing %s", preprocessing)
    work = partial(instantiate(cfg.task), cfg, folder)
    cache = shared_cache(cfg)
    try:
        if cache is None or cfg.get("input") is not None:  # what lies in an input folder is not part of the config
            return work()
        return remember(cache, OmegaConf.to_container(cfg), folder, work)  # type: ignore[arg-type]
    except DataNotFoundError as error:
        if cfg.missing_data != "skip":
            raise
        log.warning("skipped: %s", error)
        return None
