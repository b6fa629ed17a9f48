from functools import partial
from importlib.metadata import version

import pytest

from trainers.cache import foreign, keys
from trainers.cache.keys import without

key = partial(keys.key, code=())

PARTS = {"seed": 0, "data": {"root": "data", "sizes": [1, 2]}}


def test_the_order_of_keys_does_not_matter():
    assert key("jobs", PARTS) == key("jobs", {"data": {"sizes": [1, 2], "root": "data"}, "seed": 0})


@pytest.mark.parametrize(
    "other",
    [
        {**PARTS, "seed": 1},
        {**PARTS, "seed": None},
        {**PARTS, "more": None},
        {**PARTS, "data": {"root": "data", "sizes": [2, 1]}},
    ],
)
def test_every_part_matters(other):
    assert key("jobs", other) != key("jobs", PARTS)
    assert key("classifiers", PARTS) != key("jobs", PARTS)


def test_a_file_stands_for_its_content_wherever_it_lies(tmp_path):
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    a, b, c = (key("jobs", {"checkpoint": str(tmp_path / name)}) for name in "abc")
    assert a == b != c


def test_the_code_matters(monkeypatch):
    before = key("jobs", PARTS)
    monkeypatch.setattr(keys, "code_version", lambda modules: "another")
    assert key("jobs", PARTS) != before


def test_what_only_shows_is_left_out():
    quiet = {"seed": 0, "cache": "x", "trainer": {"max_epochs": 3, "enable_progress_bar": False}}
    shown = {"seed": 0, "cache": "y", "trainer": {"max_epochs": 3, "enable_progress_bar": True}}
    assert without(quiet, "cache") == without(shown, "cache") == {"seed": 0, "trainer": {"max_epochs": 3}}


@pytest.mark.parametrize("form", ["module", "package"])
def test_the_code_of_a_target_counts(tmp_path, monkeypatch, form):
    """The same config and weights mean something else once the user's network has other code."""
    name = f"someone_s_{form}"
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / (f"{name}.py" if form == "module" else f"{name}/inner.py")
    file.parent.mkdir(exist_ok=True)
    if form == "package":
        (tmp_path / name / "__init__.py").touch()
    found = []
    for activation in ("ReLU", "Tanh", "ReLU"):
        file.write_text(f"from torch.nn import {activation}")
        found.append(key("jobs", {"classifier": {"_target_": f"{name}.inner.Net"}}))
    assert found[0] == found[2] != found[1]
    assert key("jobs", {"classifier": {"_target_": "no.such.Net"}}) == key(
        "jobs", {"classifier": {"_target_": "no.such.Net"}}
    )


def test_so_does_the_code_that_it_imports_from_beside_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "someone_s_net.py").write_text("import torch\nfrom someone_s_blocks import Block")
    found = []
    for activation in ("ReLU", "Tanh", "ReLU"):
        (tmp_path / "someone_s_blocks.py").write_text(f"import someone_s_net\nfrom torch.nn import {activation}")
        found.append(key("outputs", {"classifier": {"_target_": "someone_s_net.Net"}}))
    assert found[0] == found[2] != found[1]


def test_a_package_that_is_installed_in_place_is_known_by_its_files(tmp_path, monkeypatch):
    """Its version stays when its code changes."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "someone_s_project-1.0.dist-info").mkdir()
    (tmp_path / "someone_s_project-1.0.dist-info" / "METADATA").write_text("Name: someone_s_project\nVersion: 1.0\n")
    found = []
    for activation in ("ReLU", "Tanh"):
        (tmp_path / "someone_s_project.py").write_text(f"from torch.nn import {activation}")
        found.append(key("outputs", {"classifier": {"_target_": "someone_s_project.Net"}}))
    assert found[0] != found[1]


def test_a_network_s_file_depends_on_what_it_imports_from_ours(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "someone_s_head.py").write_text("from trainers.classifiers.pooling import GlobalPool")
    assert foreign.code_of("someone_s_head.Net") != _without_ours(monkeypatch)


def _without_ours(monkeypatch):
    monkeypatch.setattr(foreign, "code_version", lambda modules: "another")
    return foreign.code_of("someone_s_head.Net")


def test_an_installed_package_is_known_by_its_version():
    assert foreign.code_of("torchvision.models.resnet18") == version("torchvision")
    assert foreign.code_of("sklearn.svm.SVC") == f"scikit-learn {version('scikit-learn')}"
    assert foreign.code_of("pathlib.Path") is None
    assert foreign.code_of("trainers.attacks.Attack") is foreign.code_of("no.such.Net") is None
