"""The README's examples run as they stand."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_every_python_block_runs(tmp_path, run_python_blocks):
    assert run_python_blocks(README) >= 2
    assert (tmp_path / "detector.safetensors").is_file()


def test_every_make_target_that_it_names_exists():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
