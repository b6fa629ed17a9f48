import pytest
import torch
from sklearn.datasets import load_digits

from trainers.data.digits import digits


def test_every_fifth_digit_from_the_fourth_on_is_a_test_image() -> None:
    bunch = load_digits()
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1438, 359)
    assert test.targets.tolist() == bunch.target[4::5].tolist()
    expected = torch.tensor(bunch.images[4::5]).float() / 16
    torch.testing.assert_close(torch.stack([image[0] for image, _ in test]), expected, atol=0.501 / 255, rtol=0)
    assert train.class_names == [str(i) for i in range(10)]


def test_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'all'"):
        digits("all")
