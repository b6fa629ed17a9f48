import io

import numpy as np
import pytest
import torch
from rich.console import Console

from trainers.attacks.adaptive.curve import Curve, union
from trainers.report.evasion_page import Pair, headline, write_evasion_report
from trainers.report.figures.evasion import evasion
from trainers.report.tables.evasion import evasion_table

EPSILONS = (1 / 255, 2 / 255, 8 / 255)


def found(*shares, n=40):
    return torch.stack([torch.arange(n) < share * n for share in shares])


def metrics(adaptive=(0.1, 0.5, 1.0), warnings=()):
    static = Curve("combined", "pgd", EPSILONS, found(0.0, 0.05, 0.1))
    joint = Curve("combined", "joint", EPSILONS, found(*adaptive), 1.0)
    softmax = Curve("max_softmax", "any", EPSILONS, found(0.3, 0.9, 1.0), 1.0)
    undefended = Curve("none", "any", EPSILONS, found(0.4, 0.95, 1.0))
    curves = [undefended, static, joint, union([static, joint]), softmax]
    return {
        "title": "made up",
        "alpha": 0.05,
        "classifier": {"test_accuracy": 0.9},
        "sources": {"adversarial/pgd 1": {"epsilon": EPSILONS[0], "auroc": 0.875}},
        "seed": 3,
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        "evasion": {
            "defence": "combined",
            "n_attacked": 40,
            "false_alarms": {"combined": {"n": 100, "rate": 0.04, "interval": [0.01, 0.1]}},
            "attacks": {"joint": {"steps": 40, "restarts": 4, "step_sizes": [0.25], "draws": 1}},
            "curves": [curve.summary() for curve in curves],
            "warnings": list(warnings),
        },
    }


def test_the_page_shows_rates_intervals_warnings_and_images(tmp_path):
    pixels = np.zeros((8, 8, 1), dtype=np.uint8)
    pairs = [Pair(pixels, pixels + 1, "cat", "dog", 0.25, EPSILONS[0], "joint")]
    write_evasion_report(metrics(warnings=["joint on combined: it is <weak>"]), pairs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in ("made up", "50.0 (34–66)", "87.5", "&lt;weak&gt;", "p = 0.250", "dog", "<svg", "8/255"):
        assert text in page
    assert page.count("data:image/png") == 2
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_page_without_images_or_warnings_says_so(tmp_path):
    write_evasion_report(metrics(), [], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Nothing suspicious was found." in page
    assert 'id="images"' not in page


def test_the_headline_never_claims_more_than_the_curve():
    assert headline(metrics()).startswith("Whoever knows the detector gets 50 % of the images past it")
    assert "2/255" in headline(metrics())
    low = headline(metrics(adaptive=(0.0, 0.0, 0.1)))
    assert low.startswith("Up to 8/255 these attacks got 10 %")
    assert "stronger ones may get more" in low


def test_the_table_has_a_row_a_curve_and_the_auroc():
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(evasion_table(metrics()).terminal())
    text = console.export_text()
    assert "87.5" in text
    assert "false alarms of combined 4.0 %" in evasion_table(metrics()).caption
    rows = evasion_table(metrics()).rows
    assert [row[0] for row in rows[:-1]] == ["no detector", *["combined"] * 3, "largest softmax"]
    assert rows[2][2:] == ("10.0", "50.0", "100.0")


def test_the_figure_draws_each_curve_in_per_cent_over_budgets():
    points = union([Curve("combined", "joint", EPSILONS, found(0.1, 0.5, 1.0))]).summary()["points"]
    (axes,) = evasion({"adaptive": points, "static": points, "softmax": []}).axes
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    assert len(axes.lines) == 2
    x, y = axes.lines[-1].get_data()
    assert list(x) == pytest.approx([1, 2, 8])
    assert list(y) == pytest.approx([10, 50, 100])
    assert len(axes.collections) == 1  # the interval of the adaptive curve alone
    assert all(line.get_marker() == "o" for line in axes.lines)  # a curve of one budget is a point
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "8"]
