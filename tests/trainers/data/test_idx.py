import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from trainers.data.errors import DataError, DataNotFoundError
from trainers.data.idx import LABEL_DIGESTS, idx_images

WriteIdx = Callable[..., np.ndarray]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "MNIST", "MNIST/raw"])
def test_a_local_copy_is_found_and_left_alone(tmp_path: Path, write_idx: WriteIdx, place: str, packed: bool) -> None:
    images = write_idx(tmp_path / place, packed=packed)
    before = sorted(tmp_path.rglob("*"))
    dataset = idx_images("MNIST", tmp_path, "test", download=False)
    assert np.array_equal(dataset.images[:, 0].numpy(), images)
    assert dataset.targets.tolist() == [i % 10 for i in range(30)]
    assert len(dataset.class_names) == 10
    assert sorted(tmp_path.rglob("*")) == before


def test_a_copy_in_a_further_folder_is_found(tmp_path: Path, write_idx: WriteIdx) -> None:
    write_idx(tmp_path / "system", "train", n=12, packed=True)
    dataset = idx_images("FashionMNIST", tmp_path / "none", "train", folders=[str(tmp_path / "system")])
    assert len(dataset) == 12
    assert dataset.class_names[0] == "T-shirt/top"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_the_files_of_a_relative_are_passed_over(
    tmp_path: Path, write_idx: WriteIdx, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    write_idx(tmp_path, packed=packed)
    labels = next(tmp_path.glob("t10k-labels*")).read_bytes()
    digest = hashlib.md5(gzip.decompress(labels) if packed else labels).hexdigest()
    monkeypatch.setitem(LABEL_DIGESTS, digest, "MNIST")
    assert len(idx_images("MNIST", tmp_path, "test", download=False)) == 30
    for other in ("KMNIST", "FashionMNIST"):
        with pytest.raises(DataNotFoundError):
            idx_images(other, tmp_path, "test", folders=[str(tmp_path)], download=False)


def test_an_item_is_a_float_image_between_0_and_1(tmp_path: Path, write_idx: WriteIdx) -> None:
    images = write_idx(tmp_path)
    image, label = idx_images("MNIST", tmp_path, "test")[3]
    assert image.dtype == torch.float32
    assert image.shape == (1, 28, 28)
    assert torch.equal(image[0], torch.tensor(images[3]).float() / 255)
    assert label == 3


def refuse(*_: object, **__: object) -> None:
    raise URLError("Name or service\nnot known")


@pytest.mark.parametrize("download", [False, True])
def test_without_copy_or_network_one_line_says_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", refuse)
    root = tmp_path / "deep" / "data"
    with pytest.raises(DataNotFoundError) as caught:
        idx_images("KMNIST", root, "test", download=download)
    text = str(caught.value)
    assert "\n" not in text
    assert str(root / "KMNIST" / "raw") in text
    assert "t10k-images-idx3-ubyte" in text
    assert ("the download failed" if download else "download is off") in text
    assert os.listdir(tmp_path) == []


def test_a_failed_download_leaves_the_root_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", refuse)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(DataNotFoundError):
        idx_images("MNIST", tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_a_download_lands_in_the_place_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_idx: WriteIdx
) -> None:
    def fetch(url: str, download_root: str, **_: object) -> None:
        for stem in ("train", "t10k"):
            write_idx(Path(download_root), stem)

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    assert len(idx_images("MNIST", tmp_path, "train")) == 30
    assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 4
    assert os.listdir(tmp_path) == ["MNIST"]
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", refuse)
    assert len(idx_images("MNIST", tmp_path, "train")) == 30


@pytest.mark.parametrize("damage", ["truncated", "empty", "not gzip"])
def test_a_damaged_file_is_named(tmp_path: Path, write_idx: WriteIdx, damage: str) -> None:
    packed = damage == "not gzip"
    write_idx(tmp_path, packed=packed)
    path = tmp_path / ("t10k-images-idx3-ubyte" + (".gz" if packed else ""))
    path.write_bytes({"truncated": path.read_bytes()[:-5], "empty": b"", "not gzip": b"nothing"}[damage])
    with pytest.raises(DataError, match=f"{path.name}: expected an IDX file; got a damaged one"):
        idx_images("MNIST", tmp_path, "test")


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path, write_idx: WriteIdx) -> None:
    write_idx(tmp_path, n=30)
    write_idx(tmp_path / "other", n=20)
    os.replace(tmp_path / "other" / "t10k-labels-idx1-ubyte", tmp_path / "t10k-labels-idx1-ubyte")
    with pytest.raises(DataError, match=r"expected 30 labels, .*; got 20: fetch both"):
        idx_images("MNIST", tmp_path, "test")


def test_unknown_names_and_splits_list_what_there_is() -> None:
    with pytest.raises(ValueError, match="name: expected one of MNIST, FashionMNIST, KMNIST, EMNIST; got 'QMNIST'"):
        idx_images("QMNIST")
    with pytest.raises(ValueError, match="split: expected one of train, test; got 'valid'"):
        idx_images("MNIST", split="valid")


def test_emnist_letters_stand_upright_and_count_from_zero(tmp_path: Path, write_idx: WriteIdx) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    images = write_idx(raw, n=10)
    labels = bytearray((raw / "t10k-labels-idx1-ubyte").read_bytes())
    labels[8:] = bytes(range(1, 11))
    (raw / "emnist-letters-test-labels-idx1-ubyte").write_bytes(labels)
    (raw / "t10k-images-idx3-ubyte").rename(raw / "emnist-letters-test-images-idx3-ubyte")
    dataset = idx_images("EMNIST", tmp_path, "test", subset="letters", download=False)
    assert np.array_equal(dataset.images[:, 0].numpy(), images.transpose(0, 2, 1))
    assert dataset.targets.tolist() == list(range(10))
    assert len(dataset.class_names) == 26
    assert dataset.class_names[0] == "a"


def test_a_subset_is_asked_for_where_there_are_several(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subset of EMNIST: expected one of balanced"):
        idx_images("EMNIST", tmp_path)
    with pytest.raises(ValueError, match="subset of MNIST: expected null"):
        idx_images("MNIST", tmp_path, subset="letters")
