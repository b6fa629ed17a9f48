"""The examples of docs/serving.md run as they stand."""

import re
from pathlib import Path

from trainers.serve import Limits
from trainers.serve.app import PROBLEMS
from trainers.serve.metrics import STRETCH, THRESHOLD

PAGE = (Path(__file__).parent.parent / "docs" / "serving.md").read_text()


def test_every_python_block_runs(run_python_blocks):
    assert run_python_blocks(PAGE) == 1


def test_the_limits_of_the_page_are_the_defaults():
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.,]+)", PAGE, re.MULTILINE))
    assert {name: float(value.replace(",", "")) for name, value in told.items()} == vars(Limits())


def test_the_answers_of_the_page_are_those_of_the_schema():
    assert {int(status) for status in re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)} == set(PROBLEMS)


def test_the_metrics_of_the_page_exist():
    source = (Path(__file__).parent.parent / "trainers" / "serve" / "metrics.py").read_text()
    for name in set(re.findall(r"gmm_torch_\w+", PAGE)):
        assert name.removesuffix("_total").removesuffix("_bucket") in source, name
    assert f"every {STRETCH:,} images" in PAGE
    assert f"at\nmost {100 / THRESHOLD:g} %" in PAGE
