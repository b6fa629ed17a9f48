"""The application: `python -m trainers.main`, or `gmm-torch`."""

import logging
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gmm_torch.errors import FileFormatError, NotFittedError
from trainers.cache import remember, shared_cache
from trainers.cache.run_folder import claimed, config_of
from trainers.callbacks.drift import DriftError
from trainers.classifiers.preprocessing import describe
from trainers.data.errors import DataError, DataNotFoundError
from trainers.run.requirements import check_torchrun, refuse_ignored, require_all

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


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one task; a mistake of the user's ends it with one line."""
    quieten()
    sys.path.append(os.getcwd())  # where `_target_` may name a package of the user's
    try:
        refuse_ignored(cfg, HydraConfig.get().overrides.task)
        check_torchrun(cfg, HydraConfig.get().overrides.hydra)
        return run_task(cfg, Path(HydraConfig.get().runtime.output_dir))
    except (*USER_ERRORS, InstantiationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        log.error("%s (HYDRA_FULL_ERROR=1 shows where)", cause)
        sys.exit(2)


if __name__ == "__main__":
    main()
