import bz2
import os
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from trainers.data.errors import DataNotFoundError
from trainers.data.torchvision_images import TORCHVISION_DATASETS, torchvision_images


@pytest.fixture
def any_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take made-up files for its own."""
    for module in (torchvision.datasets.cifar, torchvision.datasets.svhn, torchvision.datasets.stl10):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


@pytest.mark.usefixtures("any_digest")
@pytest.mark.parametrize("place", ["", "CIFAR10"])
def test_cifar_is_read_in_its_own_layout(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    data = np.random.default_rng(0).integers(0, 256, (4, 3 * 32 * 32), dtype=np.uint8)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 2, 3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car", "bird", "cat"]}))
    dataset = torchvision_images("CIFAR10", tmp_path, "test", download=False)
    assert torch.equal(dataset.images, torch.tensor(data).view(4, 3, 32, 32))
    assert dataset.class_names == ["plane", "car", "bird", "cat"]
    assert len(torchvision_images("CIFAR10", tmp_path, "train", download=False)) == 20


@pytest.mark.usefixtures("any_digest")
def test_svhn_is_read_in_its_own_layout(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": data, "y": np.array([[10], [1], [9], [2], [3]])})
    dataset = torchvision_images("SVHN", tmp_path, "test", download=False)
    assert torch.equal(dataset.images, torch.tensor(data).permute(3, 2, 0, 1))
    assert dataset.targets.tolist() == [0, 1, 9, 2, 3]  # the files say 10 for the digit 0
    assert len(dataset.class_names) == 10


@pytest.mark.usefixtures("any_digest")
def test_stl10_is_read_in_its_own_layout(tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    data = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    for name in ("train_X.bin", "test_X.bin", "unlabeled_X.bin"):
        data.tofile(folder / name)
    for name in ("train_y.bin", "test_y.bin"):
        np.array([1, 2, 3], dtype=np.uint8).tofile(folder / name)
    dataset = torchvision_images("STL10", tmp_path, "train", download=False)
    assert torch.equal(dataset.images, torch.tensor(data).transpose(2, 3))  # stored column by column
    assert dataset.targets.tolist() == [0, 1, 2]


def test_usps_is_read_in_its_own_layout(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 256))
    lines = [
        f"{label} " + " ".join(f"{i + 1}:{v:.4f}" for i, v in enumerate(row)) for label, row in enumerate(pixels, 1)
    ]
    (tmp_path / "usps.t.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))
    dataset = torchvision_images("USPS", tmp_path, "test", download=False)
    assert dataset.images.shape == (3, 1, 16, 16)
    assert dataset.targets.tolist() == [0, 1, 2]
    assert abs(dataset.images[1].flatten() / 255.0 - (torch.tensor(pixels[1]) + 1) / 2).max() < 1 / 254


@pytest.mark.parametrize("name", TORCHVISION_DATASETS)
@pytest.mark.parametrize("download", [False, True])
def test_without_copy_or_network_one_line_says_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, download: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no\nroute")

    for module, function in (
        ("cifar", "download_and_extract_archive"),
        ("stl10", "download_and_extract_archive"),
        ("svhn", "download_url"),
        ("usps", "download_url"),
    ):
        monkeypatch.setattr(getattr(torchvision.datasets, module), function, refuse)
    root = tmp_path / "data"
    with pytest.raises(DataNotFoundError) as caught:
        torchvision_images(name, root, "test", download=download)
    text = str(caught.value)
    assert "\n" not in text
    assert str(root) in text
    assert "set root" in text
    assert ("the download failed (URLError" if download else "download is off") in text
    assert os.listdir(tmp_path) == []


def test_unknown_names_and_splits_list_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"name: expected one of CIFAR10, .*got 'ImageNet'"):
        torchvision_images("ImageNet")
    with pytest.raises(ValueError, match="split: expected one of train, test"):
        torchvision_images("SVHN", split="extra")
