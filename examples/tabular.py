"""An MLP on a table of scikit-learn: rows with a broken column are refused, though each value alone is possible."""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from torch import nn

from gmm_torch import FailureDetector


def main(steps: int = 200) -> dict[str, float]:
    """Accuracy, false alarms, and how well rows with three columns of other rows are told from whole ones."""
    torch.manual_seed(0)
    data = load_breast_cancer()
    order = torch.randperm(len(data.target))
    x, y = torch.tensor(data.data, dtype=torch.float32)[order], torch.tensor(data.target)[order]
    x = (x - x[:220].mean(0)) / x[:220].std(0)
    net = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
    optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[:220]), y[:220]).backward()
        optimiser.step()

    # The table itself is a layer: the input of the first linear one.
    detector = FailureDetector(net, n_components=2, layers=["0:input"])
    detector.fit(x[:220].split(64)).calibrate(x[220:400].split(64))
    whole = x[400:]
    broken = whole.clone()
    for column in (0, 7, 20):  # radius, concave points, worst radius
        broken[:, column] = broken[torch.randperm(len(broken)), column]
    verdict, odd = detector(whole), detector(broken)
    unusual = -torch.cat([verdict.score, odd.score])
    found = {
        "accuracy": float((verdict.prediction == y[400:]).double().mean()),
        "refused": float((~verdict.accept).double().mean()),
        "refused broken": float((~odd.accept).double().mean()),
        "AUROC": float(roc_auc_score([0] * len(whole) + [1] * len(broken), unusual.detach())),
    }
    print(f"{len(whole)} test rows, {len(detector.calibration)} calibrate, seed 0: {found}")
    return found


if __name__ == "__main__":
    main()
