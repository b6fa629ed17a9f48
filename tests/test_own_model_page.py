"""The guide `docs/own_model.md`: its blocks run as they stand, one after another, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest

from tests.configuration import configure
from trainers.run.job import run_task

PAGE = (Path(__file__).parent.parent / "docs" / "own_model.md").read_text()
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)


def command(block: str) -> None:
    """Run `gmm-torch ...` as its main function does."""
    program, *overrides = shlex.split(block.replace("\\\n", " "))
    assert program == "gmm-torch"
    place = [each.partition("=")[2] for each in overrides if each.startswith("hydra.run.dir=")]
    overrides = [each for each in overrides if not each.startswith("hydra.")]
    if "classifier._target_=timm.create_model" in overrides:
        overrides.append("data.image_shape=[3,32,32]")  # not the network's 160 pixels: a tenth of the time
    run_task(configure(*overrides), Path(place[0] if place else "runs/unnamed"))


@pytest.mark.usefixtures("undrawn")
def test_every_block_runs_in_its_turn(tmp_path, monkeypatch, run_python_blocks, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_pkg.py").write_text(next(block for _, block in BLOCKS if block.startswith("# my_pkg.py")))
    for language, block in BLOCKS:
        if language == "python":
            run_python_blocks(f"```python\n{block}```")
        else:
            command(block)
    assert [language for language, _ in BLOCKS].count("sh") == 4
    assert (tmp_path / "verdicts.html").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert (
        "of 42 images refused at alpha=0.05, 1 of them because they can't be read (new/torn.jpg): verdicts.csv" in said
    )
    assert "rift" in said


def test_every_setting_of_its_table_exists():
    cells = re.findall(r"^\| .* \| (.*) \|$", PAGE, re.MULTILINE)
    settings = [each.strip('"') for cell in cells for each in re.findall(r'`("?[+a-z_.]+=[^`]*)`', cell)]
    assert len(settings) >= 5
    for setting in settings:
        configure("data=image_folder", "data.root=x", "classifier=custom", *shlex.split(setting.replace('" "', " ")))
