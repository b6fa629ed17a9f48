"""What is said where images are prepared, or split, in another way than those of a detector's fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainers.data.folder import image_folder
from trainers.data.images import ImageArray
from trainers.run.preprocessing import check_split, digest_of, fitted_images_in_test, in_another_way, split_of

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
    assert fitted_images_in_test(fitted, split(data), True) is None
    no_matter = split(SHARES | data | {"calibration_every": 5})
    assert fitted_images_in_test(fitted, no_matter, True) is None
    assert fitted_images_in_test(fitted, split(SHARES), True) is None
    assert fitted_images_in_test(MOMENTS, split(data), True) is None  # a detector that was fitted in Python
    doubt = fitted_images_in_test(fitted, split(data | {"source": {"seed": 1, "test_share": 0.2}}), False)
    assert doubt is not None
    assert doubt.endswith("then set data.source.seed=0")


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), color=len(name)).save(root / name)
    return root


FLAT = [f"{label}/{i}.png" for label in "ab" for i in range(20)]


def now_of(root: Path, shape: tuple[int, int, int] = (1, 4, 4)) -> tuple[dict[str, Any], bool]:
    images, test = (image_folder(root, split, image_shape=shape) for split in ("train", "test"))
    data = SHARES | {"source": {"seed": 0, "test_share": 0.2}}
    return split_of(data, held_out=images.held_out is not None) | digest_of(images), test.divided


def test_a_folder_that_gained_or_lost_images_since_the_fit_is_told(tmp_path):
    """Its images are divided by position: the same options then make calibration and test images of fitted ones."""
    fitted, divided = now_of(folder(tmp_path / "one", *FLAT))
    assert divided
    elsewhere, _ = now_of(folder(tmp_path / "else" / "where", *FLAT), (3, 8, 8))
    assert fitted_images_in_test(fitted, elsewhere, True) is None
    check_split(fitted, elsewhere)
    for name, others in (("more", [*FLAT, "b/20.png"]), ("less", FLAT[1:]), ("other", [*FLAT[1:], "a/99.png"])):
        now, _ = now_of(folder(tmp_path / name, *others))
        doubt = fitted_images_in_test(fitted, now, True)
        assert doubt is not None
        assert fitted["training_images"] in doubt
        with pytest.raises(ValueError, match="expected the training images of the detector's fit"):
            check_split(fitted, now)
        check_split(MOMENTS, now)  # a detector that was fitted in Python


def test_images_that_come_to_train_move_no_image_of_test_or_val(tmp_path):
    parts = [f"{part}/{name}" for part in ("train", "test") for name in FLAT]
    fitted, divided = now_of(folder(tmp_path / "one", *parts))
    assert not divided
    now, divided = now_of(folder(tmp_path / "two", *parts, "train/a/99.png"))
    assert fitted_images_in_test(fitted, now, divided) is None
    with pytest.raises(ValueError, match="hold images out in a folder val/"):
        check_split(fitted, now)
    parts += [f"val/{name}" for name in FLAT]
    fitted, _ = now_of(folder(tmp_path / "three", *parts))
    now, _ = now_of(folder(tmp_path / "four", *parts, "train/a/99.png"))
    check_split(fitted, now)


def test_images_in_no_files_are_told_apart_by_their_content():
    def images(n: int, labels: int = 2) -> ImageArray:
        pixels = torch.arange(n * 4, dtype=torch.uint8).view(n, 1, 2, 2)
        return ImageArray(pixels, torch.arange(n) % labels, ["a", "b"])

    assert digest_of(images(40)) == digest_of(images(40))
    assert digest_of(images(40)) != digest_of(images(41))
    assert digest_of(images(40)) != digest_of(images(40, 1))
