"""A small classifier of scikit-learn's digits with its detector, trained once a process, for all themes."""

import copy
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gmm_torch import FailureDetector

ALPHA = 0.05
SPLIT = {"train": 400, "fit": 500, "calibration": 399, "test": 200}
K = 3


@cache
def images() -> tuple[Tensor, Tensor]:
    """(N, 1, 8, 8) uint8 and labels (N,) int64, shuffled: as they come writers change along the way."""
    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    pixels = (torch.from_numpy(found.images)[:, None] * 255 / 16).round().byte()
    return pixels[order], torch.from_numpy(found.target).long()[order]


@cache
def split(name: str) -> Tensor:
    """(n, 1, 8, 8) float32 in [0, 1]."""
    parts = images()[0][: sum(SPLIT.values())].split(list(SPLIT.values()))
    return dict(zip(SPLIT, parts, strict=True))[name].float().div_(255)


@cache
def labels(name: str) -> Tensor:
    """(n,) int64."""
    parts = images()[1][: sum(SPLIT.values())].split(list(SPLIT.values()))
    return dict(zip(SPLIT, parts, strict=True))[name]


@cache
def asked_about() -> Tensor:
    """(N, 1, 8, 8): test images, some too bright, noise, and images that are absurd."""
    noise = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    odd = torch.stack([torch.full((1, 8, 8), value) for value in (0.0, 1.0, 1e6, float("inf"), float("nan"))])
    return torch.cat([split("test")[:60], 1.5 * split("test")[:20], noise, odd])


class Network(nn.Sequential):
    """Two convolutions, a dropout and a norm, which behave differently in training, and a head."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64, 10),
        )


@cache
def classifier() -> Network:
    """Trained for two seconds; nobody may change it."""
    torch.manual_seed(0)
    network = Network().train()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(split("train")), labels("train")).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def new_detector(**options: object) -> FailureDetector:
    """Not fitted."""
    components = {} if "score" in options else {"n_components": K}  # a score has its own
    return FailureDetector(classifier(), **{**components, "alpha": ALPHA, **options})  # type: ignore[arg-type]


@cache
def not_calibrated() -> FailureDetector:
    """Fitted with all defaults; nobody may change it."""
    return new_detector().fit(split("fit").split(100))


@cache
def detector() -> FailureDetector:
    """Fitted and calibrated with all defaults; nobody may change it."""
    return copy.deepcopy(not_calibrated()).calibrate(split("calibration").split(100))
