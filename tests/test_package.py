"""The wheel carries everything that a run needs."""

import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import gmm_torch
import trainers
from tests.processes import started
from tests.wheels import built_wheel
from trainers.cache.foreign import code_of
from trainers.classifiers.build import build_classifier
from trainers.run.complaint import complaint

ROOT = Path(__file__).parent.parent


NETWORK = """
from torch import nn


class MyNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""


@pytest.fixture
def place(tmp_path):
    """A user's project: its folders have the names of ours, and its network two bases of its own."""
    place = tmp_path / "project"
    for folder in ("trainers", "conf", "tests"):
        (place / folder).mkdir(parents=True)
    for file in ("trainers/__init__.py", "tests/__init__.py", "conf/config.yaml"):
        (place / file).touch()
    for file in ("main.py", "conf/__init__.py", "trainers/utilities.py"):
        (place / file).write_text("raise AssertionError('not asked for')")
    (place / "trainers" / "my_net.py").write_text(NETWORK)
    (place / "trainers" / "data.py").write_text("from trainers.my_net import MyNet")
    (place / "my_pkg.py").write_text("from trainers.my_net import MyNet")
    return place


def as_installed(paths, words):
    """Runs a command as its script does where these folders are searched first; ours are imported from there."""
    for name in [
        name for name in sys.modules if name.partition(".")[0] in ("gmm_torch", "gmm_torch_command", "trainers")
    ]:
        del sys.modules[name]
    sys.path[:0] = [str(Path(words[0]).parent), *paths]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")  # which exits
    finally:
        assert Path(sys.modules["trainers.tasks.run"].__file__).is_relative_to(paths[-1])


def test_an_installed_wheel_runs_in_a_project_with_folders_of_our_names(tmp_path, place):
    (source := tmp_path / "source").mkdir()
    wheel = built_wheel(source)  # of what the image copies, which is therefore enough
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", str(site), str(wheel)], check=True)
    for needed in ("gmm_torch/py.typed", "trainers/conf/task/serve.yaml", "trainers/serve/page.html"):
        assert (site / needed).is_file()
    assert list(site.glob("gmm_torch-*.dist-info/licenses/LICENSE"))
    # The user's project comes first: `trainers` is theirs for every process that does not ask for ours.
    command, paths = str(site / "bin" / "gmm-torch"), [str(place), str(site)]
    options = ["experiment=demo", "debug=fast", "score=log_likelihood", "ood=[uniform_noise]", "attack=[]"]
    words = [command, *options, "classifier._target_=my_pkg.MyNet"]
    process = started(as_installed, (paths, words), place, tmp_path / "said")
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()[-2000:]
    assert (place / "runs" / "demo" / "report.html").is_file()
    look = "from importlib.util import find_spec; print(find_spec('trainers').origin)"
    (place / "child.py").write_text(look)  # with `-m` in the user's folder, as workers of a sweep start
    start = "import subprocess as s, sys; from gmm_torch_command import find_application as f; f(); f();"
    found = subprocess.run(
        [sys.executable, "-c", start + "s.run([sys.executable, '-m', 'child'])"],
        cwd=place, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.split() == [str(site / "trainers" / "__init__.py")], found.stderr


def test_a_module_that_ours_hides_is_named_where_an_import_fails(place, monkeypatch):
    monkeypatch.setattr(trainers, "__path__", [*trainers.__path__, str(place / "trainers")])
    monkeypatch.setattr(trainers.__spec__, "submodule_search_locations", trainers.__path__)
    with pytest.raises(ValueError, match="MyNet") as failed:
        build_classifier({"_target_": "trainers.data.MyNet"}, 10, (1, 8, 8))
    assert f"hides {place / 'trainers' / 'data.py'}: give" in complaint(failed.value)
    assert complaint(ValueError("expected")) == "expected"
    assert build_classifier({"_target_": "trainers.my_net.MyNet"}, 10, (1, 8, 8))
    code = code_of("trainers.my_net.MyNet")
    (place / "trainers" / "utilities.py").touch()
    (place / "trainers" / "my_net.py").write_text(NETWORK + "# changed")
    assert None is not code_of("trainers.my_net.MyNet") != code
    assert code_of("trainers.data.digits.digits") is code_of("gmm_torch.FailureDetector") is None


def test_version_and_licence_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = OmegaConf.load(ROOT / "CITATION.cff")
    assert project["version"] == gmm_torch.__version__ == citation.version
    assert project["license"] == citation.license == (ROOT / "LICENSE").read_text().split()[0]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert citation.references[0].url.endswith("2010.02364")


def test_the_source_distribution_has_what_it_names():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert not [name for name in build["include"] if not (ROOT / name).exists()]


LOGS = """
import logging, sys
from trainers.run.standard_output import end_with_the_reader
end_with_the_reader()
try:
    print("buffered")
    logging.basicConfig(stream=sys.stdout, force=True)
    logging.warning("flushed")
except Exception:
    print("not quiet", file=sys.stderr)
print("not reached", file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("-m", "gmm_torch", "--help"), ("-c", LOGS)])
def test_a_command_whose_reader_has_ended_ends_without_a_word(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], stdout=writer, stderr=subprocess.PIPE, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
