"""Every table that a benchmark wrote into a page is what the benchmark makes of its results, to the letter."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.pages import PAGES, ROOT

RESULTS = ROOT / "benchmarks" / "results"


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


# (page, block) -> the benchmark, and what makes the text of it
TEXTS: dict[tuple[str, str], tuple[str, Callable[[Any], str]]] = {
    ("README.md", "em_speed_flushed"): ("em_speed", lambda b: b.markdown(read("em_speed_flushed"), brief=True)),
    ("docs/speed.md", "em_speed"): ("em_speed", lambda b: b.markdown(read("em_speed"))),
    ("docs/speed.md", "em_speed_flushed"): ("em_speed", lambda b: b.markdown(read("em_speed_flushed"))),
    ("docs/speed.md", "em_operations"): ("em_operations", lambda b: b.markdown(read("em_operations"))),
    ("docs/speed.md", "em_roofline"): ("em_roofline", lambda b: b.markdown(read("em_roofline"))),
    ("docs/speed.md", "em_profile"): ("em_profile", lambda b: b.markdown(read("em_profile"))),
    ("docs/speed.md", "em_compiled"): ("em_compiled", lambda b: b.markdown(read("em_compiled"))),
    ("docs/speed.md", "em_converged"): ("em_converged", lambda b: b.markdown(read("em_converged"))),
    ("docs/speed.md", "kmeans_speed"): ("kmeans_speed", lambda b: b.markdown(read("kmeans_speed"))),
    ("docs/speed.md", "em_memory"): ("em_memory", lambda b: b.markdown(read("em_memory"))),
    ("docs/speed.md", "em_scaling"): ("em_scaling", lambda b: b.markdown(read("em_scaling"))),
    ("docs/size.md", "detector_scale"): ("detector_scale", lambda b: b.markdown(read("detector_scale"))),
    ("docs/size.md", "thousand_classes"): ("thousand_classes", lambda b: b.document(read("thousand_classes"))),
    ("docs/sklearn.md", "sklearn_suite"): ("sklearn_suite", lambda b: b.markdown(read("sklearn_suite"))),
    ("README.md", "architectures"): ("architectures_page", lambda b: b.in_short(read("architectures"))),
    ("docs/architectures.md", "architectures"): ("architectures_page", lambda b: b.document(read("architectures"))),
    ("docs/calibration.md", "calibration_grid"): ("calibration_grid", lambda b: b.document(read("calibration_grid"))),
    ("docs/detector.md", "detection"): ("detection", lambda b: b.document(read("detection"))),
    ("docs/detector.md", "suited_weights"): ("suited_weights", lambda b: b.document(read("suited_weights"))),
    ("docs/guarantees.md", "shift"): ("shift", lambda b: b.document(read("shift"))),
    ("docs/guarantees.md", "shift_of_run"): ("shift_of_run", lambda b: b.markdown(read("shift_of_run"))),
    ("docs/reliability.md", "fuzz"): ("reliability", lambda b: b.tables(read("reliability"))["fuzz"]),
    ("docs/reliability.md", "kills"): ("reliability", lambda b: b.tables(read("reliability"))["kills"]),
    ("docs/reliability.md", "processes"): ("reliability", lambda b: b.tables(read("reliability"))["processes"]),
    ("docs/reliability.md", "equivalences"): ("equivalences_page", lambda b: b.markdown()),
    ("docs/results.md", "paper"): ("results_page", lambda b: b.page(read("paper"))),
    ("docs/scale.md", "score_ray"): ("score_ray", lambda b: b.markdown(read("score_ray"))),
    ("docs/scale.md", "fit_sharded"): ("fit_sharded", lambda b: b.markdown(read("fit_sharded"))),
    ("docs/serving.md", "serving"): ("serving", lambda b: b.page(read("serving"))),
    ("docs/sweeps.md", "resumed_sweep"): ("resumed_sweep", lambda b: b.markdown(read("resumed_sweep"))),
}
# Compared with their results in a test of their page, or made of a run that leaves no result here.
ELSEWHERE = {"docs/adaptive.md", "docs/attacks.md", "docs/guarantees.md", "docs/semi_supervised.md", "docs/training.md"}
OF_A_RUN = {("README.md", "demo"), ("docs/gallery.md", "gallery"), ("examples/README.md", "outputs")}
BLOCK = re.compile(r"<!-- (?!end of )(.+?) -->.*?<!-- end of \1 -->", re.DOTALL)


@pytest.fixture(scope="module")
def benchmarks():
    before = set(sys.modules)
    if importlib.util.find_spec("pytorch_ood") is None:  # an extra, which the text does not need
        for name in ("pytorch_ood", "pytorch_ood.api", "pytorch_ood.detector"):
            sys.modules[name] = MagicMock()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in set(sys.modules) - before:
        if name.startswith("pytorch_ood") or (ROOT / "benchmarks" / f"{name}.py").is_file():
            del sys.modules[name]


@pytest.mark.parametrize(("page", "name"), TEXTS)
def test_a_table_is_that_of_its_results(page, name, benchmarks):
    benchmark, text = TEXTS[page, name]
    written = (ROOT / page).read_text(encoding="utf-8")
    expected = benchmarks("pages").filled(written, name, text(benchmarks(benchmark)))
    assert written == expected


def test_no_table_is_left_out():
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in [*PAGES, ROOT / "examples" / "README.md"]
        for name in BLOCK.findall(path.read_text(encoding="utf-8"))
    }
    assert {each for each in found if each[0] not in ELSEWHERE or each in TEXTS} == TEXTS.keys() | OF_A_RUN


def test_the_numbers_of_the_detector_page_are_those_of_its_results():
    page, overhead = (ROOT / "docs" / "detector.md").read_text(encoding="utf-8"), read("scoring_overhead")["detectors"]
    for line, name in (("three views", "default"), ("views=1", "one pass")):
        (row,) = re.findall(rf"^\| `FailureDetector.*{line}.* \|$", page, re.MULTILINE)
        assert row.split("|")[-2].strip() == f"{overhead[name]['ratio']:.2f}"


def test_the_summaries_of_readme_and_detector_page_are_those_of_the_results():
    rows = read("detection")["rows"]

    def best(group: str, column: str) -> str:
        return f"{max(row['auroc'][column]['mean'] for row in rows if row['group'] == group):.1f}"

    def mine(row: dict[str, Any], column: str, spread: bool) -> str:
        found = row["auroc"][column]
        return f"{found['mean']:.1f}" + (f" ± {found['std']:.1f}" if spread else "")

    views, one_pass = (row for row in rows if row["group"] == "ours")
    page = (ROOT / "docs" / "detector.md").read_text(encoding="utf-8")
    for row in (views, one_pass):
        assert f"| {mine(row, 'mean', True)} | {mine(row, 'min', True)} | " in page
    for group in ("peer", "peer over views"):
        assert f"| {best(group, 'mean')} | {best(group, 'min')} | |" in page
