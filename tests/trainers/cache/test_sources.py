"""A stage depends on its own sources: a changed page trains no classifier again."""

import shutil
from importlib.metadata import PackageNotFoundError

import pytest

from trainers.cache import sources
from trainers.cache.keys import key
from trainers.classifiers.build import build_classifier
from trainers.evaluation import attacks, split_outputs
from trainers.run.trainer import make_trainer
from trainers.run.training import train_classifier

TRAINING = {
    "data": {"_target_": "trainers.data.datamodule.ImageDataModule"},
    "classifier": {"_target_": "trainers.classifiers.small_cnn.SmallCNN"},
    "training": {"_target_": "trainers.modules.classifier_module.ClassifierModule"},
}
STAGES = {
    "train": (TRAINING, (train_classifier, build_classifier, make_trainer)),
    "attack": ({"attack": {"_target_": "trainers.attacks.Attack"}}, attacks.CODE),
    "extract": ({}, split_outputs.CODE),
}
PAGES = ("trainers/report/report.css", "trainers/report/page.py", "trainers/serve/app.py", "trainers/tasks/serve.py")


def keys() -> dict[str, str]:
    forget()
    found = {stage: key(stage, parts, [each.__module__ for each in code]) for stage, (parts, code) in STAGES.items()}
    return found | {"job": key("job", {}, None)}


def forget() -> None:
    sources.code_version.cache_clear()
    sources._versions.cache_clear()


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Appends a line to a file of a copy of the packages, and says whose key is another then."""
    for name, folder in sources.PACKAGES.items():
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGES", {name: tmp_path / name for name in sources.PACKAGES})
    before = keys()

    def change(file: str) -> set[str]:
        whole = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(whole + b"\n")
        after = keys()
        (tmp_path / file).write_bytes(whole)
        return {stage for stage, found in after.items() if found != before[stage]}

    yield change
    forget()


def test_each_stage_depends_on_what_makes_it(changed):
    for page in PAGES:
        assert changed(page) == {"job"}, page
    assert changed("trainers/modules/classifier_module.py") == {"train", "job"}
    assert changed("trainers/modules/fixmatch.py") == {"job"}  # not this training
    assert changed("trainers/classifiers/pooling.py") == {"train", "job"}  # which the network imports
    assert changed("gmm_torch/features/normalized.py") == {"train", "attack", "extract", "job"}  # in every classifier
    assert changed("trainers/data/splits.py") == {"train", "job"}
    assert changed("trainers/attacks/correct_images.py") == {"attack", "job"}
    assert {"extract", "job"} <= changed("gmm_torch/scores/combined.py")
    assert "extract" in changed("gmm_torch/mixture/covariance/diag.py")  # found by a look into the folder
    assert changed("gmm_torch/files.py") >= {"train", "job"}


def test_imports_are_followed_wherever_they_stand_but_for_annotations(tmp_path, monkeypatch):
    package = tmp_path / "ours"
    files = {
        "__init__": "from ours.unasked import x",
        "a": "def f():\n    from ours.room import b\nif TYPE_CHECKING:\n    import ours.unasked",
        "room/__init__": "import ours.c",
        "room/b": "import os, ours.far.away.d",
        "far/__init__": "",
        "far/away/__init__": "",
        "far/away/d": "",
        "c": "",
        "unasked": "",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(sources, "PACKAGES", {"ours": package})
    found = {path.relative_to(package).with_suffix("").as_posix() for path in sources.sources("ours.a")}
    far = {"far/__init__", "far/away/__init__", "far/away/d"}  # an import runs the rooms around a module
    assert found == {"a", "room/__init__", "room/b", "c", *far}
    with pytest.raises(ValueError, match=r"expected a module of ours; got 'os\.path'"):
        sources.sources("os.path")


@pytest.fixture(scope="module")
def as_they_are() -> dict[str, str]:
    return keys()


@pytest.mark.parametrize("name", sources.REQUIREMENTS)
def test_what_numbers_come_from_counts_and_may_be_missing(as_they_are, monkeypatch, name):
    version, is_installed = sources.version, _is_installed(name)

    def missing(other: str) -> str:
        if other == name:
            raise PackageNotFoundError
        return version(other)

    monkeypatch.setattr(sources, "version", missing)
    after = keys()
    forget()
    changed = {stage for stage, found in after.items() if found != as_they_are[stage]}
    assert changed == ({"train", "attack", "extract", "job"} if is_installed else set())


def _is_installed(name: str) -> bool:
    return sources._version(name) is not None
