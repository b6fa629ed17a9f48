from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image

from trainers.data import download
from trainers.data.errors import DataError, DataNotFoundError
from trainers.data.tiny_imagenet import tiny_imagenet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    for i, wnid in enumerate(("n01", "n02")):
        (root / "train" / wnid / "images").mkdir(parents=True)
        for j in range(3):
            Image.new("RGB", (64, 64), (100 * i, 0, 0)).save(root / "train" / wnid / "images" / f"{wnid}_{j}.JPEG")
    (root / "val" / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64), (100, 0, 0)).save(root / "val" / "images" / "val_0.JPEG")
    Image.new("L", (64, 64), 0).save(root / "val" / "images" / "val_1.JPEG")  # some are gray
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n")
    return root


@pytest.mark.parametrize("place", [".", ".."])
def test_the_publishers_layout_is_read(folder: Path, place: str) -> None:
    train = tiny_imagenet(folder / place, "train", download=False)
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.class_names == ["n01", "n02"]
    test = tiny_imagenet(folder / place, "test", download=False)
    assert test.targets.tolist() == [1, 0]
    assert test[0][0].shape == (3, 64, 64)
    assert torch.allclose(test[0][0][0].mean(), torch.tensor(100 / 255), atol=0.01)


def test_an_unknown_class_is_refused(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn03\n")
    with pytest.raises(DataError, match="a class of train/"):
        tiny_imagenet(folder, "test", download=False)


def test_without_copy_or_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(download, "download_url", refuse)
    with pytest.raises(DataNotFoundError, match=r"the download failed \(URLError.*set root"):
        tiny_imagenet(tmp_path / "none", "train")
    assert list(tmp_path.iterdir()) == []
