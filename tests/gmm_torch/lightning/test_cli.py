"""`LightningCLI` makes the callback from plain values."""

import sys

import pytest
import torch

from gmm_torch.lightning import FailureDetection
from tests.gmm_torch.lightning.conftest import UserData, UserModule

CONFIG = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: gmm_torch.lightning.FailureDetection
      init_args:
        calibration: {calibration}
        classifier: net
        ood: {{noise: noise_dataloader}}
        every_n_epochs: 1
        detector:
          class_path: gmm_torch.FailureDetector
          init_args: {{n_components: 2, views: 1, alpha: 0.1}}
"""


@pytest.mark.parametrize("calibration", ["calibration_dataloader", "2"])
def test_the_command_line_makes_it(calibration, tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    (tmp_path / "mine.yaml").write_text(CONFIG.format(calibration=calibration))
    cli = LightningCLI(UserModule, UserData, args=["fit", "--config", "mine.yaml", "--model.width=12"])
    (callback,) = [each for each in cli.trainer.callbacks if isinstance(each, FailureDetection)]
    assert callback.calibration == (2 if calibration == "2" else calibration)
    assert (callback.detector.alpha, callback.detector.score.n_components) == (0.1, 2)
    assert torch.isfinite(cli.trainer.callback_metrics["detection/val/noise/auroc"])
    assert "FailureDetection" in (tmp_path / "config.yaml").read_text()
