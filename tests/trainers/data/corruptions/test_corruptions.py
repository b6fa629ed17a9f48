"""Every corruption of `conf/corruption` keeps to the contract of the package."""

from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sklearn.datasets import load_sample_images

from tests.configuration import files_read_once
from trainers.data.corruptions import SEVERITIES, CorruptedImages
from trainers.data.corruptions.draws import clouds
from trainers.data.corruptions.warp import smooth, warp
from trainers.data.images import ImageArray
from trainers.main import CONF

NAMES = sorted(path.stem for path in (CONF / "corruption").glob("*.yaml") if path.stem != "all")


def build(name):
    with initialize_config_dir(str(CONF), version_base="1.3"), files_read_once():
        found = compose(overrides=[f"+corruption=[{name}]"]).corruption
    return {key: instantiate(value) for key, value in found.items()}


CORRUPTIONS = build("all")


def photographs(size, channels=3, n=4):
    """Crops of the two photographs shipped with scikit-learn, scaled down."""
    pixels = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    crops = [image[:, 40 * i : 40 * i + 320, 90 * i : 90 * i + 320] for image in pixels for i in range(n // 2)]
    images = torch.nn.functional.interpolate(torch.stack(crops).float() / 255, size=(size, size), mode="area")
    return images if channels == 3 else images.mean(dim=1, keepdim=True)


def corrupt(name, images, severity, seed=0):
    return CORRUPTIONS[name](images, severity=severity, generator=torch.Generator().manual_seed(seed))


def test_all_are_all():
    assert sorted(CORRUPTIONS) == NAMES
    assert len(NAMES) == 15


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_config_of_its_own(name):
    made = build(name)
    assert list(made) == [name]
    assert isinstance(made[name], partial)
    assert made[name].func.__name__ == name
    assert made[name].func.__doc__


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_higher_severity_is_farther_from_the_clean_image(name, channels):
    images = photographs(32, channels)
    distances = [(corrupt(name, images, s) - images).flatten(1).norm(dim=1).mean().item() for s in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(distances)
    assert distances[-1] > 1.3 * distances[0]


@pytest.mark.parametrize(("size", "channels", "dtype"), [(8, 1, torch.float32), (28, 1, torch.float32),
                                                         (33, 3, torch.float64), (96, 3, torch.float32)])  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_shape_type_and_range_stay(name, size, channels, dtype):
    images = photographs(size, channels, n=2).to(dtype)
    images[0, :, : size // 2] = 0  # a black and a white half
    images[1, :, : size // 2] = 1
    before = images.clone()
    for severity in (1, 5):
        found = corrupt(name, images, severity)
        assert found.shape == images.shape
        assert found.dtype == dtype
        assert found.isfinite().all()
        assert found.min() >= 0
        assert found.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_images_need_not_be_square(name):
    images = photographs(32)[:, :, :20]
    assert corrupt(name, images, 3).shape == images.shape


@pytest.mark.parametrize("name", NAMES)
def test_a_severity_means_the_same_on_larger_images(name):
    """Lengths are shares of the side: scaled down, a corrupted large image is about as far from the clean one."""
    if name in {"gaussian_noise", "shot_noise", "impulse_noise", "jpeg_compression"}:
        pytest.skip("noise of single pixels and the blocks of JPEG have no scale")
    large, small = photographs(64), photographs(32)
    shrink = partial(torch.nn.functional.interpolate, size=(32, 32), mode="area")
    far = (shrink(corrupt(name, large, 4)) - shrink(large)).square().mean()
    near = (corrupt(name, small, 4) - small).square().mean()
    assert 0.33 < float(far / near) < 3


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_fixes_what_is_random(name):
    images = photographs(28)
    state = torch.get_rng_state()
    assert torch.equal(corrupt(name, images, 3, seed=5), corrupt(name, images, 3, seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    random = name not in {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert torch.equal(corrupt(name, images, 3, seed=5), corrupt(name, images, 3, seed=6)) != random


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same(name):
    images = photographs(32)
    found = corrupt(name, images.cuda(), 3)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), corrupt(name, images, 3), atol=2e-2, rtol=0)


def test_a_dataset_is_corrupted_image_by_image():
    pixels = (photographs(16, n=6) * 255).byte()
    dataset = ImageArray(pixels, torch.arange(6), [str(i) for i in range(6)])
    noise = CORRUPTIONS["gaussian_noise"]
    all_of_them = CorruptedImages(dataset, torch.arange(6), noise, 3, seed=0)
    some = CorruptedImages(dataset, torch.tensor([4, 1]), noise, 3, seed=0)
    assert some.targets.tolist() == [4, 1]
    assert some.image_shape == (3, 16, 16)
    assert some.class_names == dataset.class_names
    assert torch.equal(some[0][0], all_of_them[4][0])
    assert some[1][1] == 1
    weaker = CorruptedImages(dataset, torch.tensor([4]), noise, 1, seed=0)[0][0] - dataset[4][0]
    stronger = some[0][0] - dataset[4][0]
    inside = (some[0][0] > 0) & (some[0][0] < 1)
    torch.testing.assert_close(weaker[inside] * 0.11 / 0.04, stronger[inside], atol=1e-5, rtol=1e-4)
    assert not torch.equal(CorruptedImages(dataset, torch.tensor([4]), noise, 3, seed=1)[0][0], some[0][0])
    assert not torch.equal(all_of_them[0][0] - dataset[0][0], all_of_them[1][0] - dataset[1][0])


@pytest.mark.parametrize("severity", [0, 6, 2.5])
def test_an_impossible_severity_is_refused(severity):
    dataset = ImageArray(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1))
    with pytest.raises(ValueError, match="severity: expected one of"):
        CorruptedImages(dataset, torch.arange(1), CORRUPTIONS["fog"], severity, seed=0)


def test_noise_has_the_strength_that_it_says():
    grey = torch.full((1, 3, 100, 100), 0.5)
    assert float((corrupt("gaussian_noise", grey, 2) - grey).std()) == pytest.approx(0.07, rel=0.05)
    assert float(corrupt("shot_noise", grey, 2).std()) == pytest.approx((0.5 / 80) ** 0.5, rel=0.05)
    hit = corrupt("impulse_noise", grey, 5) != grey
    assert float(hit.float().mean()) == pytest.approx(0.18, rel=0.1)


def test_blurs_keep_plain_images_and_the_sum_of_a_point():
    grey = torch.full((1, 3, 24, 24), 0.3)
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"):
        torch.testing.assert_close(corrupt(name, grey, 5), grey)
    for name in ("defocus_blur", "motion_blur"):
        assert float(corrupt(name, point, 5).sum()) == pytest.approx(1, abs=1e-4)
        assert corrupt(name, point, 5).max() < 0.5


def test_brightness_keeps_the_hue():
    images = torch.tensor([0.4, 0.2, 0.0]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(corrupt("brightness", images, 2).flatten(), torch.tensor([0.56, 0.28, 0.0]))


def test_warping_by_whole_pixels_moves_pixels():
    images = torch.arange(12.0).reshape(1, 1, 3, 4)
    moved = warp(images, torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2))
    torch.testing.assert_close(moved[..., :3], images[..., 1:])
    moved = warp(images, torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))
    torch.testing.assert_close(moved[:, :, :2], images[:, :, 1:])


def test_smoothing_is_wide_as_told_and_clouds_fill_their_range():
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    blurred = smooth(point, 2.5)
    offset = torch.arange(-20, 21.0)
    assert float((blurred.sum(dim=2).flatten() * offset**2).sum()) == pytest.approx(2.5**2, rel=0.06)
    found = clouds(torch.zeros(2, 3, 16, 24), torch.Generator().manual_seed(0))
    assert found.shape == (2, 1, 16, 24)
    assert found.amin((1, 2, 3)).tolist() == [0, 0]
    assert found.amax((1, 2, 3)).tolist() == pytest.approx([1, 1])


def test_a_corruption_of_ones_own_is_a_function_and_a_yaml(tmp_path, monkeypatch):
    (tmp_path / "corruption").mkdir()
    (tmp_path / "corruption" / "negative.yaml").write_text(
        "negative: {_target_: own_negative.negative, _partial_: true}\n"
    )
    (tmp_path / "own_negative.py").write_text(
        "def negative(images, severity, generator):\n    return images + severity / 5 * (1 - 2 * images)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with initialize_config_dir(str(CONF), version_base="1.3"), files_read_once():
        cfg = compose("config", ["corruption=[negative,fog]", f"hydra.searchpath=[file://{tmp_path}]"]).corruption
    made = {name: instantiate(each) for name, each in cfg.items()}
    assert list(made) == ["negative", "fog"]
    images = ImageArray(torch.zeros(3, 1, 4, 4).byte(), torch.arange(3))
    corrupted = CorruptedImages(images, torch.tensor([2, 0]), made["negative"], 5, seed=0)
    assert [(float(image.mean()), label) for image, label in corrupted] == [(1.0, 2), (1.0, 0)]
