"""What is said where images are prepared, or split, in another way than those of a detector's fit."""

import pytest
import torch

from trainers.data.images import ImageArray
from trainers.run.preprocessing import (
    check_split,
    digest_of,
    fitted_images_in_test,
    in_another_way,
    other_images,
    split_of,
)

MOMENTS = {"mean": [0.5], "std": [0.25]}
FITTED = {**MOMENTS, "crop_share": 0.875, "keep_ratio": True, "calibration_every": "10"}
SHARES = {"calibration_every": 10, "validation_every": 20, "mixture_every": 5}


def test_a_difference_is_told_with_what_follows_and_what_to_do():
    said = in_another_way(FITTED, {"mean": [0.1, 0.2], "std": [0.25], "crop_share": 1.0, "keep_ratio": True})
    assert said == (
        "preprocessing: expected mean [0.5], crop_share 0.875, as the detector was fitted; got mean [0.1, 0.2], "
        "crop_share 1.0. The same image then has another p-value, and any share of good images may be refused, not "
        "alpha of them: set data.mean=[0.5] data.source.crop_share=0.875, or fit a detector with what is set now"
    )


def test_images_that_nothing_resizes_are_compared_by_their_normalisation_alone():
    assert in_another_way(FITTED, MOMENTS) == ""
    assert in_another_way(MOMENTS, {**MOMENTS, "crop_share": 1.0}) == ""
    assert "crop_share" not in in_another_way(FITTED, {**MOMENTS, "std": [1.0]})


def test_only_the_shares_that_decide_who_calibrates_are_asked_for():
    fitted = FITTED | split_of(SHARES, held_out=False)
    check_split(fitted, split_of(SHARES | {"mixture_every": None}, held_out=False))
    check_split(MOMENTS, split_of(SHARES, held_out=False))  # a detector that was fitted in Python
    other = split_of(SHARES | {"calibration_every": 5, "validation_every": 4}, held_out=False)
    with pytest.raises(ValueError, match=r"set data\.calibration_every=10 data\.validation_every=20$"):
        check_split(fitted, other)


@pytest.mark.parametrize(("name", "other"), [("seed", 1), ("test_share", 0.5), ("held_out_every", None)])
def test_a_source_that_takes_other_images_for_training_is_told(name, other):
    """They are then split by the same shares, and images of the fit calibrate all the same."""
    source = {"seed": 0, "test_share": 0.2, "held_out_every": 10}
    fitted = FITTED | split_of(SHARES | {"source": source}, held_out=False)
    check_split(fitted, split_of(SHARES | {"source": source}, held_out=False))
    check_split(fitted, split_of(SHARES, held_out=False))  # data of one size, say, whose source knows none of them
    now = split_of(SHARES | {"source": source | {name: other}}, held_out=False)
    with pytest.raises(ValueError, match=rf"set data\.source\.{name}={source[name]}$"):
        check_split(fitted, now)
    with pytest.raises(ValueError, match="null" if other is None else str(other)):
        check_split(now, fitted)


def test_images_that_are_held_out_ask_for_no_share_and_are_asked_for():
    held_out = split_of(SHARES, held_out=True)
    check_split(FITTED | held_out, split_of(SHARES | {"calibration_every": 3}, held_out=True))
    check_split(FITTED, held_out)
    with pytest.raises(ValueError, match=r"expected images that are held out .* got none, .*: give the data of"):
        check_split(MOMENTS | held_out, split_of(SHARES, held_out=False))


def test_test_images_of_another_split_than_the_fits_are_doubted():
    data = SHARES | {"source": {"seed": 0, "test_share": 0.2}}

    def split(data):
        return split_of(data, held_out=False) | {"training_images": "80 images, digest 12"}

    fitted = split(data)
    assert fitted_images_in_test(fitted, split(data)) is None
    no_matter = split(SHARES | data | {"calibration_every": 5})
    assert fitted_images_in_test(fitted, no_matter) is None
    assert fitted_images_in_test(fitted, split(SHARES)) is None
    assert fitted_images_in_test(MOMENTS, split(data)) is None  # a detector that was fitted in Python
    doubt = fitted_images_in_test(fitted, split(data | {"source": {"seed": 1, "test_share": 0.2}}))
    assert doubt is not None
    assert doubt.endswith("then set data.source.seed=0")


def images(n: int) -> ImageArray:
    pixels = torch.arange(n * 4, dtype=torch.uint8).view(n, 1, 2, 2)
    return ImageArray(pixels, torch.arange(n) % 2, ["a", "b"])


def test_a_folder_that_gained_an_image_since_the_fit_is_doubted():
    """Its images are divided by position: the same options then make calibration and test images of fitted ones."""
    data = SHARES | {"source": {"seed": 0, "test_share": 0.2}}
    fitted = split_of(data, held_out=False) | digest_of(images(80))
    same, grown = (split_of(data, held_out=False) | digest_of(images(n)) for n in (80, 81))
    assert other_images(fitted, same) is None
    assert other_images(MOMENTS, grown) is None  # a detector that was fitted in Python
    assert fitted_images_in_test(fitted, same) is None
    for doubt in (other_images(fitted, grown), fitted_images_in_test(fitted, grown)):
        assert doubt is not None
        assert "80 images, digest" in doubt
        assert "81 images, digest" in doubt
    official = split_of(SHARES, held_out=False) | digest_of(images(81))  # test images come with it
    assert fitted_images_in_test(fitted, official) is None
