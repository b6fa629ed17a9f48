"""Every configuration composes; every experiment runs from end to end in its fastest form."""

import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from gmm_torch import FailureDetector
from tests.configuration import configure
from trainers.main import CONF
from trainers.run.job import run_task
from trainers.run.run import Run
from trainers.run.training import new_module

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("[!_]*.yaml"))]
LISTS = {"ood", "attack", "adaptive", "corruption", "shift"}
OF_TASK = {"adaptive": "adaptive", "drift": "score", "engine": "score"}  # groups that one task alone has
PRESETS = {"debug", "experiment", "study", "supervision"}  # choose options of other groups
APART = LISTS | PRESETS | OF_TASK.keys()


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
    sizes = {"train": 200, "test": 12, "held_out": 25, "all": 12}
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


def new_detector(*overrides: str) -> FailureDetector:
    """The node `detector` with a classifier, as it stands."""
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    detector = instantiate(configure(*overrides).detector, classifier=classifier)
    assert detector.classifier is classifier
    return detector


def targets(cfg: object) -> list[str]:
    """Every `_target_` of a config, however deep."""
    if isinstance(cfg, dict):
        return [v for k, v in cfg.items() if k == "_target_"] + [t for v in cfg.values() for t in targets(v)]
    if isinstance(cfg, list):
        return [t for v in cfg for t in targets(v)]
    return []


def commands() -> list[list[str]]:
    """Overrides that choose every option: those of a list together, each preset, and of all other groups one at a time.

    What holds others of its own group, and so repeats them, is chosen by itself.
    """
    options = {group: [option for of, option in OPTIONS if of == group] for group in GROUPS}
    found = []
    for group in sorted(LISTS):
        texts = {option: (CONF / group / f"{option}.yaml").read_text() for option in options[group]}
        several = [option for option, text in texts.items() if any(f"  - {other}\n" in text for other in texts)]
        together = ",".join(option for option in texts if option not in several)
        found += [[f"{group}=[{each}]"] for each in (together, *several)]
    found += [[f"{group}={option}"] for group in sorted(APART - LISTS) for option in options[group]]
    others = [[f"{group}={option}" for option in options[group]] for group in GROUPS if group not in APART]
    found += [[choice for choice in row if choice] for row in zip_longest(*others)]
    return [[*row, f"task={task}"] if (task := OF_TASK.get(row[0].partition("=")[0])) else row for row in found]


@pytest.mark.parametrize("overrides", commands(), ids=" ".join)
def test_every_option_composes_and_names_what_exists(overrides):
    plain = OmegaConf.to_container(configure(*overrides))
    for target in targets(plain):
        if target == "???":
            continue
        module, _, name = target.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), target


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "score"])
def test_every_score_is_instantiated(option):
    detector = new_detector(f"score={option}")
    assert detector.score.name == option


@pytest.mark.parametrize(
    "option", [option for group, option in OPTIONS if group == "trainer" and "gpu" not in option and option != "ddp"]
)
def test_every_trainer_is_instantiated(option, tmp_path):
    cfg = configure(f"trainer={option}").trainer
    trainer = instantiate(cfg, default_root_dir=str(tmp_path))
    assert isinstance(trainer, get_class(cfg._target_))


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "callbacks"])
def test_every_callback_is_instantiated(option):
    callbacks = [instantiate(each) for each in configure(f"callbacks={option}").callbacks.values()]
    assert callbacks
    assert all(isinstance(callback, lightning.Callback) for callback in callbacks)


def test_callbacks_and_loggers_watch_a_training(tmp_path):
    watching = ("callbacks=online_mixture", "logger=csv")
    run_task(configure(*watching, "task=train", "trainer=cpu", "debug=fast", "trainer.log_every_n_steps=1"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"classifier.safetensors", "checkpoints", "csv"}
    assert [path.name for path in (tmp_path / "least_likely").iterdir()] == ["0000004.png"]
    (logged,) = (tmp_path / "csv").glob("**/*.csv")
    assert "train/loss" in logged.read_text()


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "experiment"])
@pytest.mark.usefixtures("undrawn")
def test_every_experiment_runs_in_fast_mode(option, tmp_path):
    overrides = [f"experiment={option}", "debug=fast"]
    if option != "demo":
        overrides += ["trainer.enable_progress_bar=false", "trainer.limit_train_batches=2", "detector.views=1"]
    cfg = configure(*overrides)
    if OmegaConf.is_missing(cfg.data, "root"):  # on the user's own images
        write_images(tmp_path / "images")
        overrides += [f"data.root={tmp_path / 'images'}", "data.image_shape=[3,8,8]"]
    if option.startswith("openood"):  # images of a benchmark, here smaller, of fewer classes, with random weights
        write_lists(tmp_path / "lists", cfg)
        overrides += [f"paths.data={tmp_path / 'lists'}", "data.num_classes=3", "data.calibration_every=8"]
        overrides += ["data.image_shape=[3,8,8]", "classifier.num_classes=3", "data.num_workers=0"]
        overrides += ["classifier.weights=null"] if "weights" in cfg.classifier else []
    overrides += [f"attack.{name}.method.steps=5" for name in ("deepfool", "cw_l2") if name in cfg.get("attack", ())]
    if cfg.paths.cache is not None:
        overrides.append(f"paths.cache={tmp_path / 'cache'}")
    run_task(configure(*overrides), tmp_path / "run")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {
        "classifier.safetensors", "config.yaml", "detector.safetensors", "metrics.json", "report.html", "scores.csv",
    }  # fmt: skip
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


# What a user says, and what is then in the object that does the work.
SAID = [
    ("detector.views=1", lambda run: len(run.new_detector().extractor.views), 1),
    ("detector.alpha=0.1", lambda run: run.new_detector().alpha, 0.1),
    ("detector.layers=stages", lambda run: run.new_detector().extractor.rule, "stages"),
    ("score=max_softmax", lambda run: run.new_detector().score.name, "max_softmax"),
    ("score=mahalanobis detector.score.labels=true", lambda run: run.new_detector().score.needs_labels, True),
    ("calibration=conditional detector.calibration.delta=0.2", lambda run: run.new_detector().calibration.delta, 0.2),
    ("calibration=mondrian", lambda run: run.new_detector().calibration.n_classes, 10),
    ("seed=3", lambda run: run.new_detector().seed, 3),
    ("score=log_likelihood mixture=tied", lambda run: run.new_detector().score.covariance_type, "tied"),
    ("score=log_likelihood mixture.n_components=5", lambda run: run.new_detector().score.n_components, 5),
    ("mixture=low_rank mixture.rank=5", lambda run: run.cfg.detector.score.covariance_type, "low_rank:5"),
    ("mixture.em.max_iter=7", lambda run: run.em_options.max_iter, 7),
    ("optimizer.lr=0.5", lambda run: learning(run).optimizer.keywords["lr"], 0.5),
    ("optimizer=sgd optimizer.momentum=0.5", lambda run: learning(run).optimizer.keywords["momentum"], 0.5),
    ("training.label_smoothing=0.1", lambda run: learning(run).label_smoothing, 0.1),
    ("training=fixmatch training.threshold=0.8", lambda run: learning(run).threshold, 0.8),
    ("training=fixmatch training.unlabelled.ratio=2", lambda run: run.data.unlabelled.ratio, 2),
    ("data=mnist paths.data=elsewhere", lambda run: run.data.root, "elsewhere"),
    ("data=image_folder data.root=mine", lambda run: run.data.root, "mine"),
    ("data.batch_size=7", lambda run: run.data.batch_size, 7),
    ("paths.cache=kept", lambda run: run.cache.folder, Path("kept")),
    ("limit.attack=5", lambda run: run.attacks["pgd"].n_images, 5),
    ("trainer=cpu trainer.max_epochs=3", lambda run: run.trainer().max_epochs, 3),
    ("logger=csv", lambda run: [type(logger).__name__ for logger in run.trainer().loggers], ["CSVLogger"]),
    ("task=score drift=windows drift.threshold=9", lambda run: instantiate(run.cfg.drift).monitor.threshold, 9),
    ("task=serve drift=windows drift.seconds=15min", lambda run: instantiate(run.cfg.drift).monitor.seconds, 900),
    ("task=score drift=reference drift.promise=set", lambda run: instantiate(run.cfg.drift).monitor.promise, "set"),
]


def learning(run: Run) -> Any:
    return new_module(run.cfg.training, nn.Linear(1, 10), 10)


@pytest.mark.parametrize(("said", "found", "expected"), SAID, ids=[said for said, _, _ in SAID])
def test_an_override_arrives_in_the_object_that_does_the_work(said, found, expected, tmp_path):
    assert found(Run(configure(*said.split()), tmp_path)) == expected


def test_a_folder_of_the_user_s_own_must_be_named():
    assert OmegaConf.is_missing(configure("data=image_folder").data, "root")
    assert OmegaConf.is_missing(configure("ood=[folder]").ood.folder, "root")


def test_a_group_changes_no_value_of_another_group():
    """Presets do: a study, a supervision, an experiment and debug compose the other groups."""
    parts_of_the_detector = {"score", "calibration"}
    roots = set(configure())
    for group, option in OPTIONS:
        text = (CONF / group / f"{option}.yaml").read_text()
        if group == "task":  # adds what this task alone needs
            added = set(OmegaConf.load(CONF / group / f"{option}.yaml")) - {"defaults", "task", "_target_", "_partial_"}
            assert not added & (roots - {"resume"}), (group, option)
        elif group in parts_of_the_detector:
            assert text.startswith(f"# @package detector.{group}\n"), (group, option)
        elif group not in PRESETS:
            assert "@package" not in text, (group, option)


@pytest.mark.parametrize(
    ("group", "name"), [("data", "calibration_every"), ("data", "validation_every"), ("mixture", "reg_covar")]
)
def test_each_number_has_one_home(group, name):
    homes = [path.name for path in (CONF / group).glob("*.yaml") if f"\n{name}: " in path.read_text().replace("  ", "")]
    assert homes == ["_base.yaml"]


# A file that adds one of its kind, and what is composed with it.
ADDED = {
    "data/mine.yaml": ("data=mine", "defaults: [digits, _self_]\nbatch_size: 9\n", "data.batch_size", 9),
    "attack/mine.yaml": (
        "attack=[mine]",
        "mine: {_target_: trainers.attacks.Attack, name: mine, epsilon: 1, method: {_target_: foolbox.attacks.L2PGD}}",
        "attack.mine.epsilon",
        1,
    ),
    "classifier/mine.yaml": (
        "classifier=mine",
        "defaults: [_base, _self_]\n_target_: my_pkg.MyNet\n",
        "classifier._target_",
        "my_pkg.MyNet",
    ),
    "logger/mine.yaml": ("logger=mine", "mine: {_target_: my_pkg.MyLogger}", "logger.mine._target_", "my_pkg.MyLogger"),
}


def add(folder: Path, file: str, text: str) -> None:
    """Write one more file of `conf`, elsewhere."""
    (folder / file).parent.mkdir()
    (folder / file).write_text(text)


@pytest.mark.parametrize("file", ADDED)
def test_a_data_set_an_attack_a_classifier_a_logger_is_one_file(file, tmp_path):
    override, text, key, value = ADDED[file]
    add(tmp_path, file, text)
    assert OmegaConf.select(configure(f"hydra.searchpath=[{tmp_path}]", override), key) == value


def test_a_task_is_one_file_and_its_config(tmp_path, monkeypatch):
    (tmp_path / "count_task.py").write_text("def count(cfg, folder, *, start):\n    return start + cfg.seed\n")
    add(tmp_path, "task/count.yaml", "_target_: count_task.count\n_partial_: true\nstart: 40\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert run_task(configure(f"hydra.searchpath=[{tmp_path}]", "task=count", "seed=2"), tmp_path / "run") == 42


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ((), r"runs/demo"),
        (("paths.output=out", "seed=1"), r"out/demo"),
        (("task=serve", "paths.output=out"), r"out/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d"),
        (("seed=1", "hydra.run.dir=here"), r"here"),
    ],
)
def test_the_demo_has_its_folder_and_another_task_on_it_has_another(overrides, folder):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["experiment=demo", *overrides], return_hydra_config=True)
    assert re.fullmatch(folder, cfg.hydra.run.dir)


def test_a_sweep_lies_below_the_output():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["paths.output=out"], return_hydra_config=True)
    assert cfg.hydra.sweep.dir.startswith("out/multirun/")
