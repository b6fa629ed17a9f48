"""`task=fit` under torchrun: the detector of one process, and an error where the processes would not work together."""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tests.configuration import configure
from tests.pages import ROOT
from trainers.run.job import run_task
from trainers.run.requirements import check_torchrun

DIGITS = ("data=digits", "trainer.enable_progress_bar=false")


@pytest.mark.slow
def test_two_processes_of_torchrun_end_with_the_detector_of_one(tmp_path):
    run_task(configure(*DIGITS, "trainer=cpu", "task=train", "trainer.max_epochs=1"), tmp_path / "trained")
    fitting = (*DIGITS, "task=fit", "score=log_likelihood", "mixture.n_components=3", "mixture.em.max_iter=5")
    fitting += (f"classifier.checkpoint={tmp_path / 'trained' / 'classifier.safetensors'}",)
    run_task(configure(*fitting, "trainer=cpu"), tmp_path / "one")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainers.main"]
    command += [*fitting, "trainer=torchrun", "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path / 'two'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_file(tmp_path / name / "detector.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor.double() - two[name].double()).abs().max() <= 1e-4 * tensor.double().abs().max(), name


def test_processes_that_would_not_work_together_are_told(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="expected the 4 processes of torchrun; got 1: set trainer=torchrun"):
        check_torchrun(configure("trainer=cpu"), ["hydra.run.dir=x"])
    with pytest.raises(ValueError, match=r"hydra\.run\.dir: expected one folder"):
        check_torchrun(configure("trainer=torchrun"), [])
    check_torchrun(configure("trainer=torchrun"), ["hydra.run.dir=x"])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    check_torchrun(configure("trainer=cpu"), [])
