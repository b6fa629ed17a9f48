"""A network, data and a Trainer of a user's own, so small that training takes a moment."""

from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gmm_torch import FailureDetector

SMALL = partial(FailureDetector, n_components=2, views=1)


def images(n: int, seed: int) -> TensorDataset:
    """Noise with a bright pixel that tells the class, in most of them."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (n,), generator=generator)
    x = torch.rand(n, 1, 6, 6, generator=generator)
    x[torch.arange(n), 0, 0, label] += 0.4
    return TensorDataset(x, label)


def loader(n: int, seed: int, **options: object) -> DataLoader:
    return DataLoader(images(n, seed), **{"batch_size": 32, **options})


def noise() -> DataLoader:
    return DataLoader(TensorDataset(3 * torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(8))), 32)


class UserModule(lightning.LightningModule):
    """What a user has: a network under a name of their own."""

    def __init__(self, width: int = 16, lr: float = 1e-2, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(36, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3)]
        self.net = nn.Sequential(*layers)
        self.lr = lr

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)


class UserData(lightning.LightningDataModule):
    """What a user has: loaders, and one to calibrate with."""

    def train_dataloader(self):
        return loader(300, 1, shuffle=True)

    def val_dataloader(self):
        return loader(101, 2)

    def test_dataloader(self):
        return loader(99, 3)

    def calibration_dataloader(self):
        return loader(81, 4)

    def noise_dataloader(self):
        return noise()


def make_trainer(folder: Path, *callbacks: lightning.Callback, **options: object) -> lightning.Trainer:
    """A quiet Trainer with callbacks."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **quiet, **options}
    return lightning.Trainer(accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **options)


@pytest.fixture
def trainer(tmp_path):
    """Makes a Trainer with a callback."""
    return partial(make_trainer, tmp_path)
