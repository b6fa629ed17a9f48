"""Every launcher config composes with the plugin that it is for."""

import pytest
from hydra import compose, initialize_config_dir

from trainers.main import CONF

LAUNCHERS = sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))
PLUGINS = {
    "workstation": "hydra_plugins.hydra_joblib_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "local_processes": "hydra_plugins.hydra_submitit_launcher",
    "ray_cluster": "hydra_plugins.hydra_ray_launcher",
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_composes(name):
    pytest.importorskip(PLUGINS[name])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"hydra/launcher={name}"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_.startswith(PLUGINS[name])
