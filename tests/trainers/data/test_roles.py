"""Which image serves for what: folders of splits as such, no image in two roles, one class is none."""

import logging
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainers.classifiers.build import build_classifier
from trainers.data.datamodule import ImageDataModule
from trainers.data.errors import DataError
from trainers.data.folder import image_folder

SHAPE = (3, 6, 6)
ROLES = ("train", "mixture", "calibration", "validation", "test")


def write(folder: Path, kind: int, n: int, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    """Images whose first pixel says the kind of their folder."""
    generator = np.random.default_rng(kind)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            pixels[0, 0] = kind
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")


def data_of(root: Path, cache: bool = True, **options: object) -> ImageDataModule:
    source: Callable[..., object] = partial(image_folder, image_shape=SHAPE, cache=cache)
    return ImageDataModule(source, root=root, **options)  # type: ignore[arg-type]


def kinds(data: ImageDataModule, role: str) -> set[int]:
    images = data.test_images if role == "test" else data.training_images
    return {round(float(images[i][0][0, 0, 0]) * 255) for i in data.indices[role].tolist()}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("mixture_every", [None, 5])
def test_folders_of_splits_serve_as_such(tmp_path, caplog, name, cache, mixture_every):
    for kind, folder in enumerate(("train", name, "test", "extra")):
        write(tmp_path / folder, kind, 20)
    (tmp_path / "train" / "dog" / "05.png").write_bytes(b"torn")
    data = data_of(tmp_path, cache, mixture_every=mixture_every)
    data.source = partial(data.source, skip_unreadable=True)
    with caplog.at_level(logging.INFO):
        found = {role: kinds(data, role) for role in ROLES}
    assert found == {"train": {0}, "mixture": {0}, "calibration": {1}, "validation": {1}, "test": {2}}
    assert len(data.indices["calibration"]) == 30
    assert len(data.indices["validation"]) == 10
    for first, second in combinations(set(ROLES) - {"test"}, 2):
        if {first, second} != {"train", "mixture"} or mixture_every:
            assert not torch.isin(data.indices[first], data.indices[second]).any()
    for role in ("calibration", "validation"):  # of every class
        assert set(data.training_images.targets[data.indices[role]].tolist()) == {0, 1}
    said = [record.getMessage() for record in caplog.records]
    assert any(f"{name}/ for calibration and model selection" in line and "not used: extra/" in line for line in said)
    assert not any("have the content" in line for line in said)


def test_a_folder_that_serves_for_the_test_is_not_held_out(tmp_path):
    write(tmp_path / "train", 0, 20)
    write(tmp_path / "val", 1, 5)
    data = data_of(tmp_path)
    data.source = partial(data.source, test_folder="val")
    assert kinds(data, "calibration") == {0}
    assert kinds(data, "test") == {1}


def test_what_cannot_serve_is_told(tmp_path):
    write(tmp_path / "train", 0, 20)
    write(tmp_path / "test", 1, 5)
    write(tmp_path / "val", 2, 5, ("cat", "cow"))
    with pytest.raises(DataError, match=r"val: expected classes of .*; got cow as well"):
        _ = data_of(tmp_path).indices
    write(tmp_path / "valid", 2, 5)
    with pytest.raises(DataError, match="one folder of held-out images; got val and valid"):
        _ = data_of(tmp_path).indices
    write(tmp_path / "other" / "Train", 0, 5)
    write(tmp_path / "other" / "Test", 0, 5)
    with pytest.raises(DataError, match="got Test/, Train/: rename them"):
        _ = data_of(tmp_path / "other").indices


@pytest.mark.parametrize("cache", [False, True])
def test_images_in_two_roles_are_counted_and_told(tmp_path, caplog, cache):
    write(tmp_path / "train", 0, 20)
    write(tmp_path / "val", 1, 8)
    write(tmp_path / "test", 2, 5)
    for i in range(3):
        copy = (tmp_path / "train" / "cat" / f"0{i}.png").read_bytes()
        (tmp_path / "test" / "dog" / f"again{i}.png").write_bytes(copy)
    _ = data_of(tmp_path, cache, mixture_every=None).indices
    said = [record.getMessage() for record in caplog.records if "have the content" in record.getMessage()]
    assert [line.partition(":")[0] for line in said] == ["data"] * 2
    assert "3 images of mixture (40) have the content of images of test (13)" in said[0]
    assert "3 images of test (13) have the content of images of train (40)" in said[1]


def test_one_class_is_refused(tmp_path):
    write(tmp_path, 0, 30, ("cat",))
    with pytest.raises(DataError, match="expected images of at least two classes; got 1: cat"):
        _ = data_of(tmp_path).indices
    network = {"_target_": "torch.nn.Identity"}
    with pytest.raises(ValueError, match="expected at least two classes; got 1"):
        build_classifier(network, 1, SHAPE)


class OneLogit(nn.Module):
    """A sigmoid's logit: (N, 1), or (N,)."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat = flat

    def forward(self, x):
        logit = x.flatten(1).mean(1)
        return logit if self.flat else logit[:, None]


@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_is_refused_with_what_to_do(flat):
    network = {"_target_": f"{__name__}.OneLogit", "flat": flat}
    with pytest.raises(ValueError, match=r"for two classes return torch\.stack\(\[torch\.zeros_like\(z\), z\]"):
        build_classifier(network, 2, SHAPE)


def test_hidden_folders_are_no_classes_and_files_left_out_are_told(tmp_path, caplog):
    write(tmp_path, 0, 30)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / "film.mp4").write_bytes(b"film")
    data = data_of(tmp_path)
    assert data.class_names == ["cat", "dog"]
    assert any("1 files are left out" in line and "film.mp4" in line for line in caplog.messages)
