import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader

from trainers.data.digits import digits
from trainers.data.errors import MissingSetsError
from trainers.data.noise import gaussian_noise, uniform_noise
from trainers.data.ood import build_ood
from trainers.data.patches import patches

WriteIdx = Callable[..., np.ndarray]
WriteFolder = Callable[..., list[Path]]
DIGITS = {"_target_": "trainers.data.digits.digits", "split": "test"}


def test_every_kind_of_set_takes_the_shape_of_the_images_and_no_label(
    tmp_path: Path, write_idx: WriteIdx, write_folder: WriteFolder
) -> None:
    write_idx(tmp_path / "idx", packed=True)
    write_folder(tmp_path / "folder", n=3)
    cfg = {
        "mnist": {
            "_target_": "trainers.data.idx.idx_images",
            "name": "MNIST",
            "root": str(tmp_path / "idx"),
            "split": "test",
        },
        "digits": DIGITS,
        "folder": {
            "_target_": "trainers.data.folder.image_folder",
            "_partial_": True,
            "root": str(tmp_path / "folder"),
            "split": "all",
        },
        "noise": {"_target_": "trainers.data.noise.uniform_noise", "_partial_": True, "n_images": 7},
        "patches": {"_target_": "trainers.data.patches.patches", "_partial_": True, "n_images": 5},
        "foreign": {
            "_target_": "torchvision.datasets.FakeData",
            "size": 4,
            "image_size": [3, 50, 40],
        },
    }
    for shape in ((3, 32, 32), (1, 28, 28), (3, 8, 12)):
        sets = build_ood(cfg, shape, seed=0)
        assert {name: len(images) for name, images in sets.items()} == {
            "mnist": 30,
            "digits": 359,
            "folder": 6,
            "noise": 7,
            "patches": 5,
            "foreign": 4,
        }
        for images in sets.values():
            for batch, labels in DataLoader(images, batch_size=100):
                assert batch.shape[1:] == shape
                assert batch.dtype == torch.float32
                assert 0 <= batch.min() <= batch.max() <= 1
                assert (labels == -1).all()


def test_a_limit_keeps_a_seeded_choice_in_order() -> None:
    def chosen(seed: int) -> torch.Tensor:
        return torch.stack([image for image, _ in build_ood({"d": DIGITS}, (1, 8, 8), seed, limit=20)["d"]])

    everything = [image.numpy().tobytes() for image, _ in digits("test")]
    places = [everything.index(image.numpy().tobytes()) for image in chosen(0)]
    assert len(places) == 20
    assert places == sorted(places) != list(range(20))
    assert torch.equal(chosen(0), chosen(0))
    assert not torch.equal(chosen(0), chosen(1))


def test_bad_configs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ood\.mnist: expected a config with _target_"):
        build_ood({"mnist": {"root": "data"}}, (1, 8, 8), seed=0)
    with pytest.raises(ValueError, match="limit: expected a number of images >= 1"):
        build_ood({"d": DIGITS}, (1, 8, 8), seed=0, limit=0)
    with pytest.raises(ValueError, match="image_shape: expected"):
        build_ood({"d": DIGITS}, (8, 8), seed=0)
    with pytest.raises(ValueError, match=r"ood\.b: expected a config with _target_"):  # before any set is made
        build_ood({"a": {"_target_": "trainers.data.noise.none"}, "b": None}, (1, 8, 8), seed=0)
    assert build_ood(None, (1, 8, 8), seed=0) == {}


def test_sets_go_to_workers_that_are_spawned() -> None:
    images = build_ood({"d": DIGITS}, (3, 16, 16), seed=0, limit=5)["d"]
    there = pickle.loads(pickle.dumps(images))
    assert torch.equal(there[3][0], images[3][0])


def test_uniform_noise_is_uniform_and_seeded() -> None:
    images = uniform_noise((3, 16, 16), seed=0, n_images=200).images
    counts = torch.bincount(images.flatten().long(), minlength=256).float()
    expected = images.numel() / 256
    # chi-squared with 255 degrees of freedom: mean 255, deviation sqrt(510)
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 510**0.5
    assert torch.equal(images, uniform_noise((3, 16, 16), seed=0, n_images=200).images)
    assert not torch.equal(images, uniform_noise((3, 16, 16), seed=1, n_images=200).images)


def test_gaussian_noise_has_its_mean_and_deviation_and_is_clipped() -> None:
    pixels = gaussian_noise((1, 32, 32), seed=0, n_images=200, mean=0.4, std=0.1).images.float() / 255
    assert pixels.mean().item() == pytest.approx(0.4, abs=1e-3)
    assert pixels.std().item() == pytest.approx(0.1, abs=1e-3)
    wide = gaussian_noise((1, 8, 8), seed=0, n_images=10, std=5.0).images
    assert wide.min() == 0
    assert wide.max() == 255
    with pytest.raises(ValueError, match="std: expected a number > 0"):
        gaussian_noise((1, 8, 8), seed=0, std=0.0)


def test_patches_are_cut_from_the_photographs() -> None:
    images, again = (torch.stack([image for image, _ in patches((3, 256, 256), seed=0, n_images=40)]) for _ in range(2))
    assert torch.equal(images, again)
    assert len({image.numpy().tobytes() for image in images}) == 40
    photographs = np.concatenate([image.reshape(-1, 3) for image in load_sample_images().images])
    assert 255 * images.mean().item() == pytest.approx(photographs.mean(), abs=40)
    wide, label = patches((1, 20, 700), seed=0, n_images=2)[1]
    assert (wide.shape, label) == ((1, 20, 700), -1)  # wider than a photograph


@pytest.mark.parametrize("make", [uniform_noise, gaussian_noise, patches])
def test_no_images_are_refused(make: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="n_images: expected an integer >= 1; got 0"):
        make((1, 8, 8), 0, n_images=0)


def missing_and_present(tmp_path: Path) -> dict[str, dict[str, object]]:
    folder = {"_target_": "trainers.data.folder.image_folder", "_partial_": True, "split": "all"}
    idx = {"_target_": "trainers.data.idx.idx_images", "name": "MNIST", "split": "test", "download": False}
    return {
        "lsun": {**folder, "root": str(tmp_path / "lsun"), "remedy": "Unpack LSUN there."},
        "digits": DIGITS,
        "mnist": {**idx, "root": str(tmp_path / "mnist")},
    }


def test_one_error_names_all_sets_that_are_missing_and_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(MissingSetsError) as caught:
        build_ood(missing_and_present(tmp_path), (1, 8, 8), seed=0)
    assert list(caught.value.errors) == ["ood.lsun", "ood.mnist"]
    text = str(caught.value)
    places = (str(tmp_path / "lsun"), str(tmp_path / "mnist"))
    assert all(words in text for words in (*places, "2 data sets", "Unpack LSUN there.", "missing_data=leave_out"))
    assert "\n" not in text


def test_missing_sets_are_left_out_with_a_warning_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sets = build_ood(missing_and_present(tmp_path), (1, 8, 8), seed=0, skip_missing=True)
    assert list(sets) == ["digits"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "left out ood.lsun" in caplog.text
