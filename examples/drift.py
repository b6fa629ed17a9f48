"""A stream of images, and an alarm when the sensor goes blind slowly: false with probability at most 1 %, ever."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.conformal.drift import DriftMonitor


def main(epochs: int = 10, begin: int = 300) -> dict[str, float | None]:
    """When the alarm comes on a stream that decays from image `begin` on, and on one that does not."""
    torch.manual_seed(0)
    data = load_digits()
    order = torch.randperm(len(data.target))
    x, y = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16, torch.tensor(data.target)[order]
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(400).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    detector = FailureDetector(net.eval(), n_components=10)
    detector.fit(x[400:800].split(100)).calibrate(x[800:1197].split(100))

    clean = x[1197:]  # 600 images in the order in which they come
    decay = ((torch.arange(600) - begin).clamp(min=0) / 300)[:, None, None, None]
    streams = {"clean": clean, "decaying": (clean + decay * torch.rand(600, 1, 8, 8)).clamp(max=1)}
    found: dict[str, float | None] = {}
    for name, stream in streams.items():
        monitor = DriftMonitor(detector.calibration.scores, threshold=100)
        for batch in stream.split(20):
            monitor.update(detector(batch).score.detach())
        found[f"alarm, {name}"] = monitor.alarm_at
        found[f"log10 of the capital, {name}"] = monitor.log_capital / 2.302585
        found[f"refused at the end, {name}"] = float((~detector(stream[-100:]).accept).double().mean())
    print(f"streams of 600 digits, decay from image {begin} on, seed 0: {found}")
    return found


if __name__ == "__main__":
    main()
