"""A training loop of plain torch, then a detector: errors, noise and attacked digits, beside the softmax's maximum."""

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

from gmm_torch import FailureDetector


def attack(net: nn.Module, x: torch.Tensor, y: torch.Tensor, size: float = 0.2, steps: int = 10) -> torch.Tensor:
    """Images within `size` of x in every pixel that the classifier gets wrong (projected gradient, Madry 2018)."""
    other = x.clone()
    for _ in range(steps):
        other.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(other), y), other)
        other = (other.detach() + size / 4 * gradient.sign()).clamp(x - size, x + size).clamp(0, 1)
    return other[net(other).argmax(1) != y]


def main(epochs: int = 12) -> dict[str, float]:
    """AUROC of the detector, and of the softmax's maximum, for each kind of failure."""
    torch.manual_seed(0)
    data = load_digits()
    order = torch.randperm(len(data.target))
    x, y = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16, torch.tensor(data.target)[order]
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    net = nn.Sequential(*body, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(400).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()

    detector = FailureDetector(net.eval(), n_components=10)
    detector.fit(x[:900].split(100)).calibrate(x[900:1300].split(100))
    x, y = x[1300:], y[1300:]
    verdict = detector(x)
    right = verdict.prediction == y
    failures = {"errors": x[~right], "noise": torch.rand(300, 1, 8, 8), "attacked": attack(net, x[right], y[right])}
    found = {"accuracy": float(right.double().mean()), "refused": float((~verdict.accept).double().mean())}
    for name, images in failures.items():
        bad = detector(images)
        truth = [0] * int(right.sum()) + [1] * len(images)
        softmax = -torch.cat([verdict.logits[right], bad.logits]).softmax(1).amax(1)
        found[name] = float(roc_auc_score(truth, -torch.cat([verdict.score[right], bad.score]).detach()))
        found[f"{name}, softmax"] = float(roc_auc_score(truth, softmax.detach()))
        print(f"{name}: n = {len(images)}, AUROC {found[name]:.3f}, softmax {found[f'{name}, softmax']:.3f}")
    print(f"accuracy {found['accuracy']:.3f}, {found['refused']:.1%} of {len(x)} test digits refused at 5 %, seed 0")
    return found


if __name__ == "__main__":
    main()
