"""What the documents show runs: Python blocks are executed, commands composed, files and options there."""

import re
import runpy
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from gmm_torch import GaussianMixture
from tests.configuration import configure
from tests.pages import PAGES, ROOT, blocks, commands
from tests.processes import started, torchrun

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
# Pages whose blocks leave something behind that is looked at, in a test of their own.
OWN_TEST = {name for name in TEXTS if (ROOT / "tests" / f"test_{Path(name).stem.lower()}_page.py").exists()}
OWN_TEST |= {"README.md"}
WITH_PYTHON = [n for n, text in TEXTS.items() if any(b.language == "python" and not b.title for b in blocks(text))]
COMMANDS = [(name, words) for name, text in TEXTS.items() for words in commands(text)]


def called(program: str) -> list[tuple[str, list[str]]]:
    return [(name, words[words.index(program) + 1 :]) for name, words in COMMANDS if program in words]


@pytest.mark.parametrize("name", sorted(set(WITH_PYTHON) - OWN_TEST))
def test_every_python_block_runs(name, run_python_blocks):
    assert run_python_blocks(TEXTS[name]) >= 1


def jobs(overrides: list[str]) -> list[list[str]]:
    """What a command runs: itself, or for a sweep the first values of all options, the second, and so on."""
    values = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            values.append([override.input_line])
    longest = zip_longest(*values)
    return [[mine or own[-1] for mine, own in zip(job, values, strict=True)] for job in longest] or [[]]


@pytest.mark.parametrize(("name", "words"), called("gmm-torch"), ids=lambda value: value if value is str else None)
def test_every_command_of_the_application_composes(name, words):
    if any(word.startswith("hydra/launcher=ray") for word in words):
        pytest.importorskip("hydra_plugins.hydra_ray_launcher")  # an extra that is no part of `dev`
    overrides = [word for word in words if word not in ("...", "-m", "--multirun") and not word.startswith("--")]
    for job in jobs(overrides):
        assert "task" in configure(*job), name


def test_commands_are_found():
    assert len(called("gmm-torch")) > 10
    assert {"make", "pip", "gmm-torch", "torchrun"} <= {word for _, words in COMMANDS for word in words}


def test_every_script_that_is_run_exists_and_has_the_options():
    found = [(name, words) for name, words in called("python") if words[0].endswith(".py")]
    assert len(found) >= 1
    for name, (script, *options) in found:
        path = ROOT / script
        assert path.is_file(), f"{name}: {script}"
        source = path.read_text()
        missing = [word for word in options if word.startswith("--") and f'"{word}"' not in source]
        assert not missing, f"{name}: {script} has no {missing}"


def test_every_target_of_make_and_every_extra_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = called("make")
    assert len(asked) >= 3
    for name, words in asked:
        assert words[0] in targets, name
    wanted = [
        (name, found) for name, text in TEXTS.items() for found in re.findall(r"(?:gmm_torch|\.)\[([a-z,-]+)\]", text)
    ]
    assert len(wanted) >= 3
    for name, found in wanted:
        assert set(found.split(",")) <= extras.keys(), name


def test_no_page_and_no_message_installs_a_release_that_there_is_not():
    """`pip install gmm_torch` asks an index for a release; a clone is installed by `pip install -e '.[extra]'`."""
    others = [ROOT / "pyproject.toml", ROOT / "Makefile", *(ROOT / "examples").rglob("*.md")]
    for folder, kind in (("conf", "yaml"), ("benchmarks", "py"), ("gmm_torch", "py"), ("trainers", "py")):
        others += (ROOT / folder).rglob(f"*.{kind}")
    texts = TEXTS | {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in others}
    found = [name for name, text in texts.items() if re.search(r"pip install (-\S+ )*['\"]?gmm_torch", text)]
    assert not found


def test_the_extras_are_documented():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", TEXTS["docs/install.md"], re.MULTILINE)) == extras.keys()


def run_script(name: str) -> None:
    runpy.run_path(name, run_name="__main__")


def test_the_script_on_distributed_fitting_gives_the_mixture_of_one_process(tmp_path):
    (script,) = [block for block in blocks(TEXTS["docs/distributed.md"]) if block.title]
    (tmp_path / script.title).write_text(script.text)
    ((_, words),) = [each for each in called("torchrun") if script.title in each[1]]
    assert words == ["--standalone", "--nproc-per-node", "2", script.title]
    process = started(torchrun, (run_script, script.title), tmp_path, tmp_path / "said")
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()[-2000:]
    names: dict[str, torch.Tensor] = {}
    exec("import torch\n" + re.search(r"^points = .*$", script.text, re.MULTILINE)[0], names)
    one = GaussianMixture(n_components=2, n_features=4).fit(names["points"], seed=0)
    two = torch.load(tmp_path / "mixture.pt", weights_only=True)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5)


def test_every_page_is_in_the_navigation_and_every_entry_a_page():
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    found = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(named) == len(set(named))
    assert set(named) == found


# The tags that `Resources` looks at: a parser in Python takes long for the others.
LOADING = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*>", re.IGNORECASE)


class Resources(HTMLParser):
    """Collects what a page loads by itself; links that a reader may follow are none."""

    LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(given.get(self.LOADED.get(tag, ""), "") or "")


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        resources = Resources()
        resources.feed("".join(LOADING.findall(page.read_text(encoding="utf-8"))))
        assert any(resources.found), page
        assert not [url for url in resources.found if re.match(r"(https?:)?//", url)], page
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", style.read_text(encoding="utf-8")), style
    api = (tmp_path / "site" / "api" / "mixture.html").read_text(encoding="utf-8")
    assert 'id="gmm_torch.mixture.GaussianMixture.fit"' in api
