import pytest
import torch

from gmm_torch.features.normalized import Normalize


def test_each_channel_is_shifted_and_scaled():
    out = Normalize([0.5, 0.25], [0.5, 0.25])(torch.ones(1, 2, 1, 1))
    assert out.flatten().tolist() == [1.0, 3.0]


def test_gray_images_are_repeated_to_the_channels_of_the_mean():
    out = Normalize([0.0, 0.5, 1.0], [1.0, 1.0, 1.0])(torch.ones(2, 1, 4, 4))
    assert out.shape == (2, 3, 4, 4)
    assert out[0, :, 0, 0].tolist() == [1.0, 0.5, 0.0]


def test_images_with_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"expected images of 2 channels.*\(1, 3, 4, 4\)"):
        Normalize([0.0, 0.0], [1.0, 1.0])(torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [0.5, 0.5]), ([], []), ([0.5], [0.0]), ([float("nan")], [1.0]), ([0.5], [-1.0])]
)
def test_impossible_statistics_are_refused(mean, std):
    with pytest.raises(ValueError, match="mean"):
        Normalize(mean, std)
