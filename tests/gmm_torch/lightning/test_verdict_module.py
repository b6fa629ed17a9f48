import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gmm_torch import FailureDetector
from gmm_torch.lightning import VerdictModule


def test_a_trainer_judges_a_loader_as_the_detector_does():
    x = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    detector = FailureDetector(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), n_components=2, views=1)
    detector.fit(x[:200].split(50)).calibrate(x[200:].split(50))
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loader = DataLoader(TensorDataset(x[:60], torch.arange(60)), 25)
    verdicts = trainer.predict(VerdictModule(detector), loader)
    assert [len(verdict.accept) for verdict in verdicts] == [25, 25, 10]
    assert torch.equal(torch.cat([verdict.p_value for verdict in verdicts]), detector(x[:60]).p_value)
