"""`task=fit` under torchrun: the detector of one process, and an error where the processes would not work together."""

import os

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from safetensors.torch import load_file

from tests.configuration import configure
from tests.processes import application, started, torchrun
from trainers.run.job import run_task
from trainers.run.requirements import check_torchrun

DIGITS = ("data=digits", "trainer.enable_progress_bar=false")


def started_by_torchrun(*words):
    rank_zero_only.rank = int(os.environ["RANK"])  # which Lightning reads when it is imported, and it is already
    application(*words)


def test_two_processes_of_torchrun_end_with_the_detector_of_one(tmp_path):
    run_task(configure(*DIGITS, "trainer=cpu", "task=train", "trainer.max_epochs=1"), tmp_path / "trained")
    fitting = (*DIGITS, "task=fit", "score=log_likelihood", "mixture.n_components=3", "mixture.em.max_iter=5")
    fitting += (f"classifier.checkpoint={tmp_path / 'trained' / 'classifier.safetensors'}",)
    run_task(configure(*fitting, "trainer=cpu"), tmp_path / "one")
    words = (*fitting, "trainer=torchrun", "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path / 'two'}")
    process = started(torchrun, (started_by_torchrun, *words), tmp_path, tmp_path / "said")
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()[-2000:]
    one, two = (load_file(tmp_path / name / "detector.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.shape == two[name].shape, name
        if name == "seen.fitted":
            assert torch.equal(tensor, two[name])
        elif tensor.numel():
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
