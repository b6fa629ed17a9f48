"""The application, as `gmm_torch/__main__.py` starts it; in a checkout also `python -m trainers.main`."""

import logging
import os
import sys
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gmm_torch.errors import FileFormatError, NotFittedError
from gmm_torch.lightning.drift import DriftError
from trainers.cache import remember, shared_cache
from trainers.cache.run_folder import claimed, config_of
from trainers.classifiers.preprocessing import describe
from trainers.data.errors import DataError, DataNotFoundError
from trainers.run.requirements import refuse_ignored, require_all

# An installed wheel carries conf/ inside this package; a checkout has it beside.
_HERE = Path(__file__).parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"

# What a user can mend; anything else is a defect of ours and keeps its traceback.
USER_ERRORS = (
    DataError,
    DriftError,
    FileFormatError,
    NotFittedError,
    OSError,
    FloatingPointError,
    ValueError,
)

MAX_HIDDEN = 5  # files in an error

log = logging.getLogger(__name__)


def quieten() -> None:
    """Leave out what Lightning and warnings say about the machine; errors and our own lines stay."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
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


def run_task(cfg: DictConfig, folder: Path) -> float | None:
    """Write the resolved config into the folder and run the task on it.

    Returns:
        the task's value, which a sweeper that optimises maximises; None where it has none. With `paths.cache`, that of
        the same job if it was done before.
    """
    require_all(cfg)
    OmegaConf.resolve(cfg)
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


def complaint(error: Exception) -> str:
    """What a mistake was, and where an import failed, what may have hidden the module that was meant."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    hidden = _hidden() if _is_of_import(error) else []
    if not hidden:
        return str(cause)
    return (
        f"{cause}; the application is a package `trainers`, too, and hides {', '.join(map(str, hidden[:MAX_HIDDEN]))}: "
        "give what is imported from there a package of another name"
    )


def _hidden() -> list[Path]:
    """Modules of a user's own package `trainers` of whose names ours has others."""
    ours, *others = map(Path, find_spec("trainers").submodule_search_locations)  # type: ignore[union-attr, arg-type]
    names = {path.stem for path in ours.iterdir()} - {"__pycache__", "conf"}
    return [
        path for folder in others for path in sorted(folder.iterdir()) if path.stem in names and path.stat().st_size
    ]


def _is_of_import(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, ImportError) or _is_of_import(error.__cause__))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one task; a mistake of the user's ends it with one line."""
    quieten()
    try:
        refuse_ignored(cfg, HydraConfig.get().overrides.task)
        return run_task(cfg, Path(HydraConfig.get().runtime.output_dir))
    except (*USER_ERRORS, InstantiationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        log.error("%s (HYDRA_FULL_ERROR=1 shows where)", complaint(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
