"""The examples of `docs/guarantees.md` run as they stand, and its tables are those of the benchmark's results."""

import importlib
import json
import re
import sys
from pathlib import Path

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


@pytest.mark.parametrize(("module", "name"), [("promises", "promises"), ("stream_delay", "delays")])
def test_the_tables_of_streams_and_finds_are_those_of_the_results(monkeypatch, module, name):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.import_module(module)
    results = json.loads((ROOT / "benchmarks" / "results" / f"{module}.json").read_text())
    assert importlib.import_module("pages").filled(PAGE, name, found.document(results)) == PAGE
    sys.modules.pop(module)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tuned_threshold_keeps_its_rate_where_evidence_comes_in_steps(monkeypatch, dtype):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.import_module("stream_delay")
    paths = torch.tensor([9.1] * 4 + [8.1] * 7 + [2.0] * 89, dtype=dtype)[:, None]
    assert int((found.first_at(paths, found.threshold_of(paths)) < found.NEVER).sum()) == 4
    sys.modules.pop("stream_delay")


def test_every_section_that_it_links_to_exists():
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    links = re.findall(r"\]\(#([a-z0-9-]+)\)", PAGE)
    assert len(links) >= 7
    assert set(links) <= headings
