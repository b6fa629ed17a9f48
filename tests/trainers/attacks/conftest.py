import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from trainers.classifiers.small_cnn import SmallCNN


@pytest.fixture(scope="package")
def digits():
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(images, torch.tensor(bunch.target, dtype=torch.int64))


@pytest.fixture(scope="package")
def classifier(digits):
    images, labels = digits.tensors
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallCNN(num_classes=10, in_channels=1, width=16)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        for step in range(150):
            chosen = torch.arange(step * 64, (step + 1) * 64) % 1400
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="package")
def loader(digits):
    return DataLoader(Subset(digits, range(1400, 1797)), batch_size=50)
