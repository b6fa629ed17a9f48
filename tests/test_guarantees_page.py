"""The examples of `docs/guarantees.md` run as they stand, and its tables are those of the benchmark's results."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text()


def test_every_python_block_runs(run_python_blocks, capsys):
    assert run_python_blocks(PAGE) >= 10
    assert "can't be had" in capsys.readouterr().out


def test_the_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("guarantees_page")
    results = json.loads(page.PAGE.parent.parent.joinpath("benchmarks", "results", "guarantees.json").read_text())
    assert page.filled(PAGE, results) == PAGE
    assert all(p >= results["false_alarm_rate_of_the_tests"] / len(results["tests"]) for p in results["tests"].values())
    with pytest.raises(ValueError, match="expected the lines '<!-- setup"):
        page.filled("", results)
    sys.modules.pop("guarantees_page")


@pytest.mark.parametrize("library", ["nonconform", "online_fdr"])
def test_recipes_for_other_libraries_run(library):
    pytest.importorskip(library)
    block = next(each for each in re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL) if f"from {library}" in each)
    p = torch.rand(100, generator=torch.Generator().manual_seed(0)).double()
    p[:20] = 1e-3
    names = {"batch": p, "detector": SimpleNamespace(calibration=range(999))}
    exec(block, names)
    if library == "online_fdr":
        assert any(names["named"][:20])
        assert sum(names["named"][20:]) <= 1
    else:
        assert 0 <= names["bounds"].bound_at(0.001) < 0.5


def test_every_section_that_it_links_to_exists():
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    links = re.findall(r"\]\(#([a-z0-9-]+)\)", PAGE)
    assert len(links) >= 7
    assert set(links) <= headings
