"""Images of another size than the calibration images are told, whose size a detector's file knows where it is one."""

import pytest
import torch
from PIL import Image

from trainers.data.image_files import ImageFiles
from trainers.data.images import ImageArray
from trainers.run.file_sizes import another_size, file_size_of, other_files


@pytest.fixture
def files(tmp_path):
    """Paths of 250 images, 8 wide and 6 high, of which every fiftieth is square and the last is none."""
    paths = []
    for i in range(250):
        paths.append(str(tmp_path / f"{i:03}.png"))
        Image.new("L", (8, 8) if i % 50 == 0 else (8, 6), i).save(paths[-1])
    (tmp_path / "249.png").write_bytes(b"no image")
    return paths


def test_the_size_is_that_of_calibration_images_where_it_is_one(files):
    images = ImageFiles([(path, 0) for path in files], (1, 4, 4))
    assert file_size_of(images, torch.tensor([1, 2, 249])) == {}  # who knows of the last
    assert file_size_of(images, torch.tensor([1, 2, 3])) == {"file_size": "6 x 8"}
    assert file_size_of(images, torch.tensor([1, 50])) == {}
    assert file_size_of(ImageArray(torch.zeros(3, 1, 5, 7)), torch.tensor([0])) == {"file_size": "5 x 7"}


def test_files_of_another_size_are_told_with_one_of_them_and_both_sizes(files):
    known = {"file_size": "6 x 8"}
    found = other_files(known, files)
    assert "expected 6 x 8 pixels, as of the calibration images; got 8 x 8" in found
    assert f"{files[0]}, one of 2 such among 84 files looked at" in found  # every third: 0 and 150
    assert other_files(known, files[1:50]) == other_files({}, files) == other_files(known, []) == ""
    assert not another_size(known, "")
