import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from trainers.data.conform import as_image, conform


def test_the_wanted_shape_is_left_alone() -> None:
    image = torch.rand(3, 8, 8)
    assert torch.equal(conform(image, (3, 8, 8)), image)


def test_gray_becomes_three_equal_channels_and_colour_luminance() -> None:
    gray = torch.rand(1, 8, 8)
    assert torch.equal(conform(gray, (3, 8, 8)), gray.repeat(3, 1, 1))
    colour = torch.rand(3, 8, 8)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close(conform(colour, (1, 8, 8)), (weights * colour).sum(0, keepdim=True), atol=1e-3, rtol=0)


def test_scaling_down_averages() -> None:
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float()[None]
    small = conform(board, (1, 8, 8))
    # without antialiasing a chessboard of single pixels turns black, white, or into stripes
    assert (small - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 20, 30), (3, 7, 5)])
@pytest.mark.parametrize("source", [(1, 28, 28), (3, 96, 64), (3, 5, 9)])
def test_any_size_fits_and_stays_in_range(source: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    image = conform(torch.rand(source), shape)
    assert image.shape == shape
    assert 0 <= image.min() <= image.max() <= 1


def test_the_centre_is_kept_with_its_aspect_ratio() -> None:
    wide = torch.zeros(1, 10, 30)
    wide[..., 10:20] = 1
    assert torch.equal(conform(wide, (1, 10, 10)), torch.ones(1, 10, 10))


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 or 3 channels; got \(2, 8, 8\)"):
        conform(torch.rand(2, 8, 8), (3, 8, 8))


def test_pictures_arrays_and_tensors_become_the_same_float_image() -> None:
    picture = Image.new("RGB", (6, 4), (255, 51, 0))
    expected = torch.tensor([1, 0.2, 0]).view(3, 1, 1).expand(3, 4, 6)
    for form in (picture, transforms.pil_to_tensor(picture), expected):
        image = as_image(form)
        assert type(image) is torch.Tensor
        torch.testing.assert_close(image, expected)
