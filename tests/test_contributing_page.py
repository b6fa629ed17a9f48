"""The score of CONTRIBUTING.md, put where the page says, is found by its name and passes every contract test."""

import os
import re
import shutil
import subprocess
import sys

from omegaconf import OmegaConf

from tests.pages import ROOT, blocks, commands

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {block.title: block.text for block in blocks(PAGE) if block.title}


def test_the_score_passes_the_contract_tests(tmp_path):
    for folder in ("gmm_torch", "tests/gmm_torch/detection"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (score,) = [name for name in FILES if name.endswith(".py")]
    assert not (tmp_path / score).exists()
    (tmp_path / score).write_text(FILES[score])
    (words,) = [words for words in commands(PAGE) if words[0] == "pytest"]
    run = [sys.executable, "-m", *words, "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 4


def test_the_configuration_names_the_class():
    (config,) = [name for name in FILES if name.endswith(".yaml")]
    (score,) = [name for name in FILES if name.endswith(".py")]
    module, _, name = OmegaConf.create(FILES[config])._target_.rpartition(".")
    assert module.replace(".", "/") + ".py" == score
    assert f"class {name}(Score)" in FILES[score]
    assert f'name = "{config.rpartition("/")[2].removesuffix(".yaml")}"' in FILES[score]
