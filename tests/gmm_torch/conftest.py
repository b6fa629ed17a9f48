import copy
from functools import cache

import pytest
import torch
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.scores import make_score


class TinyNet(nn.Module):
    def __init__(self, n_features: int = 6, n_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, n_features, 3)
        self.norm = nn.BatchNorm2d(n_features)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.conv(x)).relu()
        return self.head(self.dropout(maps.mean((2, 3))))


class PValues(nn.Module):
    """The p-values of a detector alone, to export."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.detector(x).p_value


def new_net() -> TinyNet:
    """Untrained, but each class is predicted for a part of the images."""
    torch.manual_seed(0)
    net = TinyNet().eval()
    with torch.no_grad():
        net.head.bias -= net(images(200, 9)).mean(0)
    return net.train()


@pytest.fixture
def net() -> TinyNet:
    return new_net()


@pytest.fixture
def detector(fitted_once):
    """A copy, which a test may change, of the detector that its module fits once."""
    return copy.deepcopy(fitted_once)


@pytest.fixture
def its_net(detector):
    """The network of `detector`."""
    torch.manual_seed(1)  # a network that a test makes has other weights
    return detector.classifier


def images(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def batches(n: int, seed: int, size: int = 64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x, torch.zeros(len(x), dtype=torch.long)) for x in images(n, seed).split(size)]


@cache
def of_score(name: str) -> FailureDetector:
    """By this score, fitted to `batches(300, 1)`, calibrated with `batches(300, 2)`; nobody may change it."""
    return FailureDetector(new_net(), score=make_score(name)).fit(batches(300, 1)).calibrate(batches(300, 2))
