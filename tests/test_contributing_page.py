"""The score of CONTRIBUTING.md, put where the page says, is found by its name and passes every contract test."""

import re
import shutil

from omegaconf import OmegaConf

from tests.pages import ROOT, blocks, commands
from tests.processes import pytest_in, started

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {block.title: block.text for block in blocks(PAGE) if block.title}


def test_the_score_passes_the_contract_tests(tmp_path):
    for folder in ("gmm_torch", "tests/gmm_torch"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (score,) = [name for name in FILES if name.endswith(".py")]
    assert not (tmp_path / score).exists()
    (tmp_path / score).write_text(FILES[score])
    (words,) = [words for words in commands(PAGE) if words[0] == "pytest"]
    options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib")
    process = started(pytest_in, (str(tmp_path), *words[1:], *options), tmp_path, tmp_path / "said")
    process.join()
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 0, said[-3000:]
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) >= 4


def test_the_configuration_names_the_class():
    (config,) = [name for name in FILES if name.endswith(".yaml")]
    (score,) = [name for name in FILES if name.endswith(".py")]
    module, _, name = OmegaConf.create(FILES[config])._target_.rpartition(".")
    assert module.replace(".", "/") + ".py" == score
    assert f"class {name}(Score)" in FILES[score]
    assert f'name = "{config.rpartition("/")[2].removesuffix(".yaml")}"' in FILES[score]
