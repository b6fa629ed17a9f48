"""`docs/speed.md` and the README state only times whose repeats agree."""

import importlib
import json
import sys

import pytest

from tests.pages import ROOT

SOUND = [1.0, 1.1, 1.05, 0.95, 1.0]


@pytest.fixture
def benchmarks(monkeypatch):
    """Imports a module of benchmarks/ by name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (ROOT / "benchmarks" / f"{name}.py").is_file():
            del sys.modules[name]


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (SOUND[:4], "at least 5 repeats; got 4"),
        ([*SOUND, -0.001], "above zero; got -0.001"),
        ([*SOUND, 0.0], "above zero; got 0"),
        ([*SOUND, float("nan")], "above zero|quartiles"),
        ([0.5, 0.7, 1.0, 1.3, 1.5], "quartiles at most 25% of the median apart; got 0.7 to 1.3 about 1"),
    ],
)
def test_a_median_of_few_or_noisy_repeats_is_refused(benchmarks, seconds, reason):
    timings = benchmarks("timings")
    with pytest.raises(timings.NoisyTimingError, match=f"^a fit: expected .*({reason})"):
        timings.median_seconds("a fit", seconds)


def test_the_median_of_repeats_that_agree_is_stated(benchmarks):
    assert benchmarks("timings").median_seconds("a fit", SOUND) == 1.0


def test_a_result_with_a_time_below_zero_is_not_saved(benchmarks, tmp_path):
    pages = benchmarks("pages")
    path = tmp_path / "result.json"
    pages.save(path, {"loss": -1.0, "rows": [{"all_seconds": {"ours": SOUND}}]})
    before = path.read_text()
    with pytest.raises(ValueError, match=r"rows\[0\]\.all_seconds\.ours\[1\]: expected no time below zero; got -0.5"):
        pages.save(path, {"rows": [{"all_seconds": {"ours": [1.0, -0.5]}}]})
    assert path.read_text() == before


def speed_row(name, ours):
    return {
        "problem": name,
        "all_seconds": {"gmm_torch": ours, "torchgmm": [3 * second for second in SOUND]},
        "initialisation": 2.0,
        "log_likelihood": {"gmm_torch": -1.0},
        "gemm_gflops": 100.0,
        "gemm_fraction": 0.5,
        "failed": {},
    }


def test_a_noisy_row_is_left_out_of_the_speed_table_and_its_reason_told(benchmarks, capsys):
    em_speed, timings = benchmarks("em_speed"), benchmarks("timings")
    sound, noisy = speed_row("sound", SOUND), speed_row("noisy", [-0.1, *SOUND])
    assert em_speed.stated([sound, noisy]) == [sound]
    assert "left out: noisy, gmm_torch: expected every repeat above zero" in capsys.readouterr().out
    facts = {"device": "a processor", "threads": 1, "versions": {"torch": "2"}}
    table = em_speed.markdown({"facts": facts, "rows": [sound]})
    assert "| N x D, K, type | gmm_torch | torchgmm | fastest peer" in table  # who was not measured has no column
    assert "| sound | 1.000 | 3.000 | 3.00 | 50 % | 2.0 | – |" in table
    assert "| sound | 1.000 | 3.000 | 3.00 |\n" in em_speed.markdown({"facts": facts, "rows": [sound]}, brief=True)
    assert "medians of 5 repeats" in table
    with pytest.raises(timings.NoisyTimingError):
        em_speed.markdown({"facts": facts, "rows": [sound, noisy]})
    assert em_speed.markdown({"facts": facts, "rows": []}) == timings.NOTHING


def test_a_slower_peer_whose_repeats_disagree_has_no_number_and_one_that_may_be_the_fastest_refuses_the_row(benchmarks):
    em_speed, timings = benchmarks("em_speed"), benchmarks("timings")
    row = speed_row("row", SOUND)
    row["all_seconds"]["tgmm"] = [4, 9, 5, 20, 6]
    assert em_speed.medians(row) == {"gmm_torch": 1.0, "torchgmm": 3.0}
    row["all_seconds"]["tgmm"][0] = 2.9
    with pytest.raises(timings.NoisyTimingError, match="row, tgmm"):
        em_speed.medians(row)
    del row["all_seconds"]["torchgmm"]
    with pytest.raises(timings.NoisyTimingError, match="row, tgmm"):
        em_speed.medians(row)


def test_an_overhead_whose_pairs_disagree_is_not_written(benchmarks):
    page, timings = benchmarks("training_page"), benchmarks("timings")
    found = json.loads((ROOT / "benchmarks" / "results" / "training_overhead.json").read_text())
    assert page.overhead_table(found)
    with pytest.raises(timings.NoisyTimingError, match="ratio of a training step"):
        page.overhead_table(found | {"quartiles": [0.8, 1.2]})


def test_no_result_that_is_kept_has_a_time_below_zero(benchmarks):
    timings = benchmarks("timings")
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        timings.check_no_time_below_zero(json.loads(path.read_text()))


def test_the_page_says_the_share_of_float64_that_was_counted():
    rows = json.loads((ROOT / "benchmarks" / "results" / "em_roofline.json").read_text())["rows"]
    (row,) = [row for row in rows if row["problem"] == "1000k x 64, 50, full"]
    page = " ".join((ROOT / "docs" / "speed.md").read_text(encoding="utf-8").split())
    assert f"their share of the arithmetic is {100 * row['float64_share']:.2f} % (`full`, a million points" in page
    assert row["float64_once"] == pytest.approx(0.5, abs=0.02), "half of an iteration's arithmetic"
