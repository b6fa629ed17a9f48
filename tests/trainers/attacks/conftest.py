import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset

from tests.trainers.attacks.networks import trained_network


@pytest.fixture(scope="package")
def digits():
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(images, torch.tensor(bunch.target, dtype=torch.int64))


@pytest.fixture(scope="package")
def classifier(digits):
    return trained_network(*digits.tensors, n_training=1400)


@pytest.fixture(scope="package")
def loader(digits):
    return DataLoader(Subset(digits, range(1400, 1797)), batch_size=50)
