"""`task=adaptive` from end to end on digits."""

import csv
import json
from pathlib import Path

import pytest

from tests.configuration import configure
from tests.drawing import figures_left_empty
from trainers.run.job import run_task

COMMON = ("experiment=demo", "debug=fast", "ood=[uniform_noise]", "trainer.enable_progress_bar=false")
QUICK = (
    "adaptive=[guarded,imitation]",
    *(f"adaptive.{name}.{key}" for name in ("guarded", "imitation") for key in ("steps=5", "restarts=1")),
    "task.static.steps=5",
    f"task.budgets=[60/255,{20 / 255}]",  # in any order, as fractions or numbers
    "limit.attack=12",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adaptive")
    trained = ("trainer.limit_train_batches=null", "trainer.max_epochs=5")
    run_task(configure(*COMMON, *trained, "task=train"), folder / "train")
    classifier = f"classifier.checkpoint={folder / 'train' / 'classifier.safetensors'}"
    run_task(configure(*COMMON, classifier, "task=fit", "detector.views=1"), folder / "fit")
    detector = f"checkpoint={folder / 'fit' / 'detector.safetensors'}"
    with figures_left_empty():
        run_task(configure(*COMMON, classifier, detector, *QUICK, "task=adaptive"), folder / "adaptive")
    return folder / "adaptive"


@pytest.mark.filterwarnings("ignore::trainers.attacks.diagnostics.AttackWarning")
def test_metrics_hold_every_curve(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    found = metrics["evasion"]
    curves = {(curve["defence"], curve["attack"]): curve for curve in found["curves"]}
    expected = {
        (name, attack) for name in ("combined", "max_softmax") for attack in ("pgd", "guarded", "imitation", "any")
    }
    assert set(curves) == {("none", "any")} | expected
    for curve in curves.values():
        assert [point["epsilon"] for point in curve["points"]] == pytest.approx([20 / 255, 60 / 255])
        assert all(point["n"] == 12 for point in curve["points"])
        small, large = (point["n_evaded"] for point in curve["points"])
        assert small <= large
    for i in range(2):
        evaded = {key: curve["points"][i]["n_evaded"] for key, curve in curves.items()}
        for name in ("combined", "max_softmax"):
            parts = [evaded[name, attack] for attack in ("pgd", "guarded", "imitation")]
            assert max(parts) <= evaded[name, "any"] <= min(sum(parts), evaded["none", "any"])
    assert curves["combined", "any"]["points"][1]["n_evaded"] > 0
    assert {"adversarial/pgd 20", "adversarial/pgd 60", "errors"} <= set(metrics["sources"])
    assert set(found["false_alarms"]) == {"combined", "max_softmax"}
    assert found["attacks"]["guarded"] == {"steps": 5, "restarts": 1, "step_sizes": [0.25, 0.1], "draws": 1}


def test_the_csv_says_the_same_as_the_metrics(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    curves = metrics["evasion"]["curves"]
    with open(folder / "evasion.csv", newline="") as file:
        rows = [
            (row["defence"], row["attack"], float(row["epsilon"]), int(row["n_evaded"])) for row in csv.DictReader(file)
        ]
    points = [(c["defence"], c["attack"], p["epsilon"], p["n_evaded"]) for c in curves for p in c["points"]]
    assert rows == points


def test_the_report_shows_the_curve(folder):
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "20/255" in page


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ((), "set classifier.checkpoint"),
        (("classifier.checkpoint=x",), "set checkpoint="),
        (("classifier.checkpoint=x", "checkpoint=y", "adaptive=[]"), "set adaptive="),
    ],
)
def test_what_is_missing_is_said_before_work_starts(changed, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        run_task(configure(*COMMON, *changed, "task=adaptive"), tmp_path)


@pytest.mark.parametrize("budgets", ["[8]", "[0]", "[eight]", "[]"])
def test_impossible_budgets_are_refused_before_anything_is_read(tmp_path, budgets):
    files = ("classifier.checkpoint=nowhere", "checkpoint=nowhere")
    with pytest.raises(ValueError, match=r"task\.budgets: expected"):
        run_task(configure("task=adaptive", *files, f"task.budgets={budgets}"), tmp_path)
