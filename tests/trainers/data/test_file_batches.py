import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from trainers.data.file_batches import FileBatches


@pytest.fixture
def paths(tmp_path):
    for i in range(7):
        Image.new("L", (8, 8), 30 * i).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    return [str(tmp_path / f"{i}.png") for i in range(7)]


@pytest.mark.parametrize("workers", [0, 1])
def test_files_come_in_order_and_what_cannot_be_read_is_not_a_number(paths, workers):
    batches = list(DataLoader(FileBatches(paths, (1, 8, 8), 3), batch_size=None, num_workers=workers))
    assert [len(batch.images) for batch in batches] == [3, 3, 1]
    assert [path for batch in batches for path in batch.paths] == paths
    errors = [error for batch in batches for error in batch.errors]
    assert [bool(error) for error in errors] == [i == 3 for i in range(7)]
    assert "expected an image, JPEG, PNG" in errors[3]
    images = torch.cat([batch.images for batch in batches])
    assert torch.isnan(images[3]).all()
    expected = torch.tensor([30.0 * i for i in range(7)])[:, None, None, None].expand(-1, 1, 8, 8) / 255
    keep = torch.arange(7) != 3
    torch.testing.assert_close(images[keep], expected[keep])


def test_it_can_begin_later(paths):
    batches = FileBatches(paths, (3, 4, 4), 3, first=6)
    assert len(batches) == 1
    assert batches[0].paths == paths[6:]
    with pytest.raises(IndexError, match="batch 1 of 1"):
        batches[1]
