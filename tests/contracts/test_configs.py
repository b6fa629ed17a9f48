"""Every configuration composes; every experiment runs from end to end in its fastest form."""

from pathlib import Path

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from trainers.main import CONF, run_task

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
LISTS = {"ood", "attack", "adaptive", "corruption", "callback"}


def configure(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def write_images(root: Path) -> None:
    """Two classes of noise, bright and dark, as an image folder."""
    generator = torch.Generator().manual_seed(0)
    for split, n in (("train", 150), ("test", 20)):
        for name, low in (("bright", 128), ("dark", 0)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = torch.randint(low, low + 128, (32, 32, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")


def write_lists(root: Path, cfg: DictConfig) -> None:
    """The list files and images that a config names below `root`: three classes of noise."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"train": 200, "test": 20, "held_out": 25, "all": 20}
    for source in (cfg.data.source, *cfg.ood.values()):
        for split, name in source.lists.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / source.folder / name).mkdir(parents=True)
            lines = []
            for i in range(sizes[split]):
                pixels = torch.randint(100 * (i % 2), 256, (32, 32, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(root / source.folder / name / f"{i}.png")
                lines.append(f"{name}/{i}.png {i % 3}")
            (root / name).write_text("\n".join(lines))


def targets(cfg: object) -> list[str]:
    """Every `_target_` of a config, however deep."""
    if isinstance(cfg, dict):
        return [v for k, v in cfg.items() if k == "_target_"] + [t for v in cfg.values() for t in targets(v)]
    if isinstance(cfg, list):
        return [t for v in cfg for t in targets(v)]
    return []


def test_the_groups_are_those_that_the_readme_promises():
    promised = {
        "data",
        "ood",
        "classifier",
        "mixture",
        "score",
        "attack",
        "corruption",
        "trainer",
        "task",
        "experiment",
        "debug",
    }
    assert promised <= set(GROUPS)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_names_what_exists(group, option):
    cfg = configure(f"{group}=[{option}]" if group in LISTS else f"{group}={option}")
    plain = OmegaConf.to_container(cfg)
    for target in targets(plain):
        if target == "???":
            continue
        module, _, name = target.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), target


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "score"])
def test_every_score_is_instantiated(option):
    score = instantiate(configure(f"score={option}").score)
    assert score.name == option


@pytest.mark.parametrize(
    "option", [option for group, option in OPTIONS if group == "trainer" and "gpu" not in option and option != "ddp"]
)
def test_every_trainer_is_instantiated(option, tmp_path):
    cfg = configure(f"trainer={option}").trainer
    trainer = instantiate(cfg, default_root_dir=str(tmp_path))
    assert isinstance(trainer, get_class(cfg._target_))


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "callback"])
def test_every_callback_watches_a_training(option, tmp_path):
    cfg = configure(f"callback=[{option}]", "task=train", "trainer=cpu", "debug=fast")
    (callback,) = [instantiate(each) for each in cfg.callback.values()]
    assert isinstance(callback, lightning.Callback)
    run_task(cfg, tmp_path)
    assert (tmp_path / "classifier.safetensors").exists()
    if option == "online_mixture":
        assert [path.name for path in (tmp_path / "least_likely").iterdir()] == ["0000004.png"]


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "experiment"])
def test_every_experiment_runs_in_fast_mode(option, tmp_path):
    overrides = [f"experiment={option}", "debug=fast"]
    cfg = configure(*overrides)
    if OmegaConf.is_missing(cfg.data, "root"):  # on the user's own images
        write_images(tmp_path / "images")
        overrides.append(f"data.root={tmp_path / 'images'}")
    if "openood_root" in cfg:  # on the images of a benchmark, here smaller, of fewer classes, with random weights
        write_lists(tmp_path / "lists", cfg)
        overrides += [f"openood_root={tmp_path / 'lists'}", "data.num_classes=3", "data.calibration_every=8"]
        overrides += ["data.image_shape=[3,8,8]", "classifier.num_classes=3", "data.num_workers=0", "views=1"]
        overrides += ["classifier.weights=null"] if "weights" in cfg.classifier else []
    if cfg.cache is not None:
        overrides.append(f"cache={tmp_path / 'cache'}")
    run_task(configure(*overrides), tmp_path / "run")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {
        "classifier.safetensors", "config.yaml", "detector.safetensors", "metrics.json", "report.html", "scores.csv",
    }  # fmt: skip
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
