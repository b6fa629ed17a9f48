"""What `gmm-torch --help` says, made of the configuration's files."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir

from gmm_torch import __version__
from tests.configuration import configure
from trainers.main import CONF, command

OURS = {"hydra", "paths", "detector", "task"}  # nothing to choose, or listed as tasks


def shown(*overrides: str) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return str(compose("config", list(overrides), return_hydra_config=True).hydra.help.template)


@pytest.fixture(scope="module")
def said() -> str:
    return shown()


def section(said: str, name: str) -> str:
    return said.split(f"== {name} ==\n")[1].split("\n\n==")[0]


def test_every_task_has_a_line_of_its_own(said):
    lines = section(said, "Tasks").splitlines()
    told = dict(line.split(maxsplit=1) for line in lines)
    assert told.keys() == {path.stem for path in (CONF / "task").glob("*.yaml")}
    assert len(set(told.values())) == len(told)


def test_every_group_that_a_user_chooses_from_is_listed_with_its_choices(said):
    groups = dict(re.findall(r"^  (\w+)(?::.*)?\n((?:      .*\n?)+)", section(said, "Groups"), re.MULTILINE))
    assert groups.keys() == {path.name for path in CONF.iterdir() if path.is_dir()} - OURS
    for group, listed in groups.items():
        choices = {path.stem for path in (CONF / group).glob("*.yaml") if not path.name.startswith("_")}
        assert set(listed.replace(",", " ").split()) == choices


def test_the_commands_compose(said):
    lines = section(said, "Three commands to copy").replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("  gmm-torch")]
    assert len(commands) == 3
    assert [configure(*words).task._target_.rpartition(".")[2] for words in commands] == ["run", "fit", "score"]


def test_choices_of_a_users_own_are_listed_too(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "count.yaml").write_text("# @package _global_\n# Count the images\ntask: null\n")
    said = shown(f"hydra.searchpath=[file://{tmp_path}]")
    assert re.search(r"^count +Count the images$", section(said, "Tasks"), re.MULTILINE)


def test_the_version_is_that_of_gmm_torch(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gmm-torch", "--version"])
    command()
    assert capsys.readouterr().out == f"gmm_torch {__version__}\n"
