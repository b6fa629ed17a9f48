"""A network of timm on images: python examples/timm_backbone.py [NAME]; any classifier that timm can build will do."""

import sys

import timm
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from gmm_torch import FailureDetector


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Scikit-learn's 1,797 digits as colour images (N, 3, 32, 32) in [0, 1], in a fixed random order, and labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    return functional.interpolate(x, size=32, mode="bilinear").expand(-1, 3, -1, -1), torch.tensor(data.target)[order]


def main(name: str = "resnet10t", steps: int = 150) -> dict[str, float]:
    """Accuracy, false alarms, and the share of upside-down and of noisy digits that are refused."""
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=10)
    x, y = digits()
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    for step in range(steps):
        rows = torch.arange(step * 32, step * 32 + 32) % 800
        optimiser.zero_grad()
        functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimiser.step()
    net.eval()
    detector = FailureDetector(net, n_components=10, views=1)
    detector.fit(x[800:1200].split(100)).calibrate(x[1200:1500].split(100))
    verdict = detector(x[1500:])
    noise = torch.rand(200, 3, 32, 32)
    found = {
        "accuracy": float((verdict.prediction == y[1500:]).double().mean()),
        "refused": float((~verdict.accept).double().mean()),
        "refused upside down": float((~detector(x[1500:].flip(-2)).accept).double().mean()),
        "refused noise": float((~detector(noise).accept).double().mean()),
    }
    print(f"{name}, 297 test digits, 300 calibration digits, seed 0: {found}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:2])
