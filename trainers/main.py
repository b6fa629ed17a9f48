"""The application, as `gmm_torch_command.py` starts it; in a checkout also `python -m trainers.main`."""

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from trainers.run import help  # noqa: F401 - what --help lists
from trainers.run.standard_output import end_with_the_reader
from trainers.run.unknown_keys import meant

# An installed wheel carries conf/ inside this package; a checkout has it beside.
_HERE = Path(__file__).parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one task; a mistake of the user's ends it with one line."""
    # Help, and what Hydra says about a mistyped option, need not wait for torch.
    from trainers.run.complaint import complaint
    from trainers.run.job import USER_ERRORS, quieten, run_task
    from trainers.run.requirements import check_torchrun, refuse_ignored

    quieten()
    try:
        refuse_ignored(cfg, HydraConfig.get().overrides.task)
        check_torchrun(cfg, HydraConfig.get().overrides.hydra)
        return run_task(cfg, Path(HydraConfig.get().runtime.output_dir))
    except (*USER_ERRORS, InstantiationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        log.error("%s (HYDRA_FULL_ERROR=1 shows where)", complaint(error))
        sys.exit(2)


def command() -> None:
    """`main`, as a process of its own."""
    if "--version" in sys.argv[1:]:  # of which Hydra would give its own
        from gmm_torch import __version__

        sys.stdout.write(f"gmm_torch {__version__}\n")
        return
    end_with_the_reader()
    try:
        main()
    except SystemExit as end:  # Hydra has told the error before
        if hint := meant(end.__context__):
            sys.stderr.write(f"{hint}\n")
        raise
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    command()
