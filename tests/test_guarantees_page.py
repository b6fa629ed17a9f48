"""The examples of `docs/guarantees.md` run as they stand, and its tables are those of the benchmark's results."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from gmm_torch.conformal.online_discovery import OnlineDiscoveries

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


def test_a_library_is_called_as_we_call_it(monkeypatch):
    pytest.importorskip("online_fdr")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    peers = importlib.import_module("promise_peers")
    p = torch.rand(60, generator=torch.Generator().manual_seed(0)).double() ** 3
    for words, method in (("LORD++", "lord"), ("SAFFRON", "saffron"), ("ADDIS", "addis")):
        found = peers.PEERS["online"]["online-fdr"][words](p, 0.3, 1e-4)
        assert torch.equal(found, OnlineDiscoveries(0.3, 1e-4, method).update(p).found)
        assert found.any()
    sys.modules.pop("promise_peers")


def test_a_library_that_is_not_there_is_left_out_and_a_rate_above_its_promise_must_be_understood(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found, peers = importlib.import_module("promises"), importlib.import_module("promise_peers")
    assert {library for offered in peers.PEERS.values() for library in offered} <= set(peers.LIBRARIES)
    monkeypatch.setattr(peers, "LIBRARIES", {"crepes": "statistics", "nonconform": "no_such_library"})
    monkeypatch.setattr(peers, "version", lambda name: "1")
    assert peers.installed() == {"crepes": "1"}
    assert list(peers.peers("p_value")) == [("crepes", "")]
    assert list(found.methods(None, None)) == [found.OURS, found.CONTROL]
    with pytest.raises(KeyError):
        found.methods(None, None, "no_such_call")
    results = json.loads((ROOT / "benchmarks" / "results" / "promises.json").read_text())
    row = next(row for row in results["rows"] if any(each["library"] == "crepes" for each in row["found"]))
    next(each for each in row["found"] if each["library"] == "crepes")["p"] = 0.0
    with pytest.raises(KeyError, match="crepes"):
        found.document(results)
    for name in ("promises", "promise_peers"):
        sys.modules.pop(name)


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
