from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from trainers.data.errors import DataError, DataNotFoundError, UnreadableImagesError
from trainers.data.folder import image_folder
from trainers.data.images import ImageArray, LabelledImages

WriteFolder = Callable[..., list[Path]]
SHAPE = (3, 12, 16)


def stacked(dataset: LabelledImages) -> torch.Tensor:
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


@pytest.mark.parametrize("cache", [False, True])
def test_the_list_and_the_pixels_are_those_of_torchvision(
    tmp_path: Path, write_folder: WriteFolder, cache: bool
) -> None:
    write_folder(tmp_path / "train", ("dog", "cat"))
    write_folder(tmp_path / "test", ("dog",), n=3)
    reference = ImageFolder(str(tmp_path / "train"))
    dataset = image_folder(tmp_path, "train", image_shape=SHAPE, cache=cache)
    assert isinstance(dataset, ImageArray) == cache
    assert dataset.class_names == reference.classes == ["cat", "dog"]
    assert dataset.targets.tolist() == reference.targets
    expected = torch.stack([torch.tensor(np.array(image)).permute(2, 0, 1) / 255 for image, _ in reference])
    assert torch.equal(stacked(dataset), expected)
    test = image_folder(tmp_path, "test", image_shape=SHAPE, cache=cache)
    assert test.targets.tolist() == [1, 1, 1]
    assert test.class_names == ["cat", "dog"]


def test_images_are_scaled_to_cover_and_cropped_at_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    pixels[:, 40:80] = (200, 100, 50)  # the middle third is what a square keeps
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    image, label = image_folder(tmp_path, "all", image_shape=(3, 20, 20))[0]
    assert label == -1
    assert torch.allclose(image[:, :, 1:-1], torch.tensor([200, 100, 50]).view(3, 1, 1) / 255)
    gray, _ = image_folder(tmp_path, "all", image_shape=(1, 20, 20))[0]
    assert gray.shape == (1, 20, 20)


def test_one_folder_is_split_by_its_seed(tmp_path: Path, write_folder: WriteFolder) -> None:
    write_folder(tmp_path, n=50)

    def split(name: str, seed: int) -> torch.Tensor:
        return stacked(image_folder(tmp_path, name, image_shape=SHAPE, test_share=0.2, seed=seed))

    train, test = split("train", 0), split("test", 0)
    assert (len(train), len(test)) == (80, 20)
    everything = {image.numpy().tobytes() for image in split("all", 0)}
    assert {image.numpy().tobytes() for image in torch.cat([train, test])} == everything
    assert torch.equal(test, split("test", 0))
    assert not torch.equal(test, split("test", 1))


def test_images_at_any_depth_serve_without_classes(tmp_path: Path, write_folder: WriteFolder) -> None:
    write_folder(tmp_path / "b" / "c", n=2)
    Image.new("L", (5, 5)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    dataset = image_folder(tmp_path, "all", image_shape=SHAPE)
    assert dataset.targets.tolist() == [-1] * 5
    assert dataset.class_names == []
    assert not dataset[0][0].any()  # a.png sorts first


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("ext", ["png", "jpg", "bmp"])
def test_unreadable_files_of_both_splits_are_named_and_counted_in_one_error(
    tmp_path: Path, write_folder: WriteFolder, cache: bool, ext: str, caplog: pytest.LogCaptureFixture
) -> None:
    train = write_folder(tmp_path / "train", ext=ext)
    test = write_folder(tmp_path / "test", n=2, ext=ext)
    train[3].write_bytes(b"")
    train[12].write_bytes(train[12].read_bytes()[:-40])  # cut off
    test[0].write_text("this is text")
    with pytest.raises(UnreadableImagesError, match="3 of 24 image files") as caught:
        image_folder(tmp_path, "train", image_shape=SHAPE, cache=cache)
    assert caught.value.paths == [str(train[3]), str(train[12]), str(test[0])]
    assert all(path in str(caught.value) for path in caught.value.paths)
    assert "skip_unreadable=true" in str(caught.value)

    dataset = image_folder(tmp_path, "train", image_shape=SHAPE, cache=cache, skip_unreadable=True)
    assert dataset.targets.tolist() == [0] * 9 + [1] * 9
    assert len(stacked(dataset)) == 18
    assert list(dataset.left_out) == [str(train[3]), str(train[12])]
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"2 of 20 image files can't be read and are left out: {train[3]}, {train[12]}. The first: " in said
    assert len(image_folder(tmp_path, "test", image_shape=SHAPE, cache=cache, skip_unreadable=True)) == 3


def test_a_folder_of_nothing_readable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(UnreadableImagesError, match="1 of 1"):
        image_folder(tmp_path, "all", image_shape=SHAPE, skip_unreadable=True)


def test_a_file_that_breaks_later_is_named(tmp_path: Path, write_folder: WriteFolder) -> None:
    paths = write_folder(tmp_path)
    dataset = image_folder(tmp_path, "all", image_shape=SHAPE)
    paths[2].write_bytes(b"")
    with pytest.raises(DataError, match=f"{paths[2].name} can't be decoded"):
        dataset[2]


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=f"got {tmp_path / 'none'}, which does not exist. Set root"):
        image_folder(tmp_path / "none", image_shape=SHAPE)
    with pytest.raises(DataNotFoundError, match=r"got none in .*: set root"):
        image_folder(tmp_path, "all", image_shape=SHAPE)
    with pytest.raises(DataError, match="one folder of images for each class; got none"):
        image_folder(tmp_path, "train", image_shape=SHAPE)


def test_a_layout_that_fits_none_is_explained(tmp_path: Path, write_folder: WriteFolder) -> None:
    write_folder(tmp_path / "train", n=2)
    with pytest.raises(DataError, match=r"expected train/ and test/, .* got train/ alone: add"):
        image_folder(tmp_path, "train", image_shape=SHAPE)
    write_folder(tmp_path / "test", ("cat", "cow"), n=2)
    with pytest.raises(DataError, match=r"expected classes of .*; got cow as well: rename"):
        image_folder(tmp_path, "train", image_shape=SHAPE)


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split: expected one of train, test, all"):
        image_folder(tmp_path, "val", image_shape=SHAPE)
    with pytest.raises(ValueError, match="image_shape: expected"):
        image_folder(tmp_path, image_shape=(2, 8, 8))
    with pytest.raises(ValueError, match="test_share: expected a share between 0 and 1"):
        image_folder(tmp_path, image_shape=SHAPE, test_share=1.0)
