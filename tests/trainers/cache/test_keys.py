from functools import partial

import pytest

from trainers.cache import keys
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
