"""Every file of the groups ``data`` and ``ood`` composes, instantiates, and says what is true."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.configuration import files_read_once
from trainers.data.datamodule import ImageDataModule
from trainers.data.errors import DataNotFoundError
from trainers.data.ood import build_ood

WriteIdx = Callable[..., np.ndarray]
WriteFolder = Callable[..., list[Path]]

CONF = Path(__file__).parents[3] / "conf"
DATA = sorted(path.stem for path in (CONF / "data").glob("[!_]*.yaml"))
OOD = sorted(path.stem for path in (CONF / "ood").glob("[!_]*.yaml"))
OOD_FOLDERS = [name for name in OOD if "_folder@" in (CONF / "ood" / f"{name}.yaml").read_text()]
IDX = ["emnist", "fashion_mnist", "kmnist", "mnist"]
FOLDERS = ["image_folder", "image_list", "imagenet"]  # nothing downloads them
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def composed(*overrides: str) -> DictConfig:
    """Compose the two groups alone: digits, and no set out of distribution, where nothing else is said."""
    chosen = {"data": "digits", "ood": "[]"}
    chosen |= {name: value for name, _, value in (each.partition("=") for each in overrides) if name in chosen}
    values = [each for each in overrides if each.partition("=")[0] not in chosen]
    groups = [f"+{name}={value}" for name, value in chosen.items()]
    with initialize_config_dir(str(CONF), version_base=None), files_read_once():
        return compose(overrides=[*groups, "+seed=3", "+paths.data=data", *values])


def test_the_groups_hold_what_is_promised() -> None:
    tables = {"digits", "mnist", "fashion_mnist", "kmnist", "svhn", "cifar10", "cifar100", "stl10"}
    tables |= {"emnist", "usps", "tiny_imagenet"}
    assert tables | {"image_folder", "image_list", "imagenet"} <= set(DATA)
    assert tables | {"uniform_noise", "gaussian_noise", "patches", "folder"} <= set(OOD)
    assert {"textures", "places365", "lsun", "lsun_resize", "isun"} <= set(OOD)
    assert {"imagenet_o", "inaturalist", "ssb_hard", "ninco", "openimage_o", "sun", "places"} <= set(OOD)


@pytest.mark.parametrize("name", DATA)
def test_a_data_config_makes_a_data_module_and_names_what_classifiers_need(name: str) -> None:
    cfg = composed(f"data={name}", *(["data.root=x"] if name in FOLDERS else []))
    data = instantiate(cfg.data)
    assert isinstance(data, ImageDataModule)
    assert data.seed == 3
    channels = cfg.data.image_shape[0]
    assert len(cfg.data.mean) == len(cfg.data.std) == channels
    assert (cfg.data.num_classes is None) == (name in ("image_folder", "image_list"))


@pytest.mark.parametrize("name", [name for name in DATA if name not in ("digits", *FOLDERS)])
def test_a_data_config_says_what_to_do_when_there_is_no_data(tmp_path: Path, name: str) -> None:
    overrides = [f"data={name}", f"data.root={tmp_path / 'none'}", "data.source.download=false"]
    overrides += ["data.source.folders=[]"] if name in IDX else []
    with pytest.raises(DataNotFoundError, match=f"{tmp_path / 'none'}.*download is off.*set root"):
        instantiate(composed(*overrides).data).setup()


def test_digits_load_as_the_config_says() -> None:
    cfg = composed("data=digits")
    data = instantiate(cfg.data)
    data.setup()
    images = data.training_images.images.float() / 255
    assert images.mean().item() == pytest.approx(cfg.data.mean[0], abs=1e-3)
    assert images.std().item() == pytest.approx(cfg.data.std[0], abs=1e-3)


@pytest.mark.parametrize("name", IDX)
def test_idx_files_load_as_the_config_says(tmp_path: Path, write_idx: WriteIdx, name: str) -> None:
    stems = ("emnist-letters-train", "emnist-letters-test") if name == "emnist" else ("train", "t10k")
    for stem, n in zip(stems, (100, 20), strict=True):
        write_idx(tmp_path / "idx", stem, n=n, packed=n == 100)
    data = instantiate(composed(f"data={name}", f"data.root={tmp_path / 'idx'}").data)
    data.setup()
    assert (len(data.training_images), len(data.test_images)) == (100, 20)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path: Path) -> None:
    cfg = composed("data=fashion_mnist", f"data.root={tmp_path / 'none'}")
    data = instantiate(cfg.data)
    data.setup()
    assert (len(data.training_images), len(data.test_images)) == (60_000, 10_000)
    assert data.training_images.images.float().mean().item() / 255 == pytest.approx(cfg.data.mean[0], abs=1e-3)


@pytest.mark.parametrize("layout", ["one folder", "train and test"])
def test_an_image_folder_tells_its_classes(tmp_path: Path, write_folder: WriteFolder, layout: str) -> None:
    root = tmp_path / "images"
    for part in [""] if layout == "one folder" else ["train", "test"]:
        write_folder(root / part, ("a", "b", "c"), n=20)
    overrides = ["data=image_folder", f"data.root={root}", "data.image_shape=[3,6,6]"]
    data = instantiate(composed(*overrides).data)
    data.setup()
    assert data.num_classes == 3
    assert data.image_shape == (3, 6, 6)
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (3, 6, 6)


@pytest.mark.parametrize("name", OOD_FOLDERS)
def test_a_missing_folder_of_images_is_told_with_a_remedy(tmp_path: Path, name: str) -> None:
    cfg = composed(f"ood=[{name}]", *(["ood.folder.root=x"] if name == "folder" else []))
    cfg.ood[name].root = str(tmp_path / "none")
    cfg.ood[name].download = None
    with pytest.raises(DataNotFoundError, match=rf"{tmp_path / 'none'}.*[Ss]et (ood.{name}.)?root"):
        build_ood(cfg.ood, (3, 8, 8), seed=0)


@pytest.mark.parametrize("name", OOD)
def test_an_ood_config_holds_one_set_under_its_own_name(name: str) -> None:
    overrides = ["ood.folder.root=x"] if name == "folder" else []
    cfg = composed(f"ood=[{name}]", *overrides)
    assert list(cfg.ood) == [name]
    assert instantiate(cfg.ood[name], _partial_=True) is not None


def test_a_list_of_ood_sets_is_built_in_order(tmp_path: Path, write_idx: WriteIdx, write_folder: WriteFolder) -> None:
    write_idx(tmp_path / "idx")
    write_folder(tmp_path / "images", n=4)
    names = ["mnist", "uniform_noise", "gaussian_noise", "patches", "folder", "tiny_imagenet", "digits"]
    cfg = composed(
        f"ood=[{','.join(names)}]",
        f"ood.mnist.root={tmp_path / 'idx'}",
        f"ood.folder.root={tmp_path / 'images'}",
        f"ood.tiny_imagenet.root={tmp_path / 'images'}",
        "ood.patches.n_images=50",
    )
    sets = build_ood(cfg.ood, (3, 8, 8), seed=cfg.seed, limit=100)
    assert {name: len(images) for name, images in sets.items()} == dict(
        zip(names, (30, 100, 100, 50, 8, 8, 100), strict=True)
    )
    assert all(images[0][0].shape == (3, 8, 8) for images in sets.values())
