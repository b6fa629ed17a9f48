"""After an alarm: what the verdicts on disk say of the change, in words, as numbers and on the page."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gmm_torch.detector.examples import Examples
from gmm_torch.lightning.drift import DriftCallback
from tests.configuration import configure
from trainers.evaluation.drift import drift_callback, drift_facts, drift_in_words, drift_of
from trainers.records.record import Record, unreadable
from trainers.records.verdict_file import VerdictFile
from trainers.records.verdicts import summarize_verdicts
from trainers.report.refusals import Change, write_refusals

PATHS = [f"{i:03}.png" for i in range(200)]


def detector(labelled=True):
    """Of 100 labelled inputs half fall to either of two components."""
    examples = Examples().build({"first": SimpleNamespace(mixture=SimpleNamespace(n_components=3, n_features=1))}, 2)
    (kept,) = examples.mixtures
    kept.predicted[2] = 7
    if labelled:
        kept.labelled[:2] = 25
    return SimpleNamespace(alpha=0.05, examples=examples, score=SimpleNamespace(component_of="first"))


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Of 200 images all fall to the second component, with low p-values, from the 120th on; one can't be read."""
    path = tmp_path_factory.mktemp("stream") / "verdicts.csv"
    p = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    with VerdictFile(path, "job") as file:
        file.keep(PATHS, 10)
        file.append(
            [
                unreadable(name, "torn")
                if i == 150
                else Record(
                    name,
                    "a",
                    0.0,
                    p[i] if i < 120 else p[i] / 50,
                    p[i] > 0.05 and i < 120,
                    int(i >= 120) or i % 2,
                    "",
                )
                for i, name in enumerate(PATHS)
            ]
        )
        file.finish(200)
    return path


def test_the_component_that_grew_is_named_with_its_least_typical_images(verdicts, tmp_path):
    callback = DriftCallback()
    callback.alarms = [125]
    drift = drift_of(callback, detector(), verdicts)
    assert 117 <= drift.began_at <= 121
    (grown,) = drift.grown
    assert (grown.component, grown.share_before) == (1, 0.5)
    assert grown.share_now > 0.95
    assert min(grown.examples) >= 120
    assert 150 not in grown.examples
    said = " ".join(drift_in_words(drift, callback, PATHS))
    assert "Drift at image 126, 125.png: the bet against the calibration inputs reached 100 times its stake; on" in said
    assert (
        f"fall to component 1 of first ({100 * grown.share_now:.1f} %, of held-out images 50.0 %; "
        f"for example {PATHS[grown.examples[0]]})." in said
    )
    assert f"most likely began at image {drift.began_at + 1}, {PATHS[drift.began_at]} (an estimate)." in said
    facts = json.loads(json.dumps(drift_facts(drift, callback, PATHS), allow_nan=False))
    assert facts["alarms"] == [{"index": 125, "path": "125.png"}]
    assert facts["components"][0]["examples"] == [PATHS[i] for i in grown.examples]
    assert facts["component_of"] == "first"
    assert facts["not_compared"] == ""
    assert drift_in_words(drift, callback, PATHS, warned=True)[0] == "Drift at image 126, 125.png."
    assert sum(each["n"] for each in facts["p_values"]) == 200

    examples = {grown: [(PATHS[i], np.zeros((4, 4, 1), np.uint8)) for i in grown.examples]}
    change = Change(drift.alarm_at, drift.stretches, drift.mixture, examples)
    common = {"alpha": 0.05, "grid": None, "weighted_bars": "", "class_names": ["a"], "title": "t", "remarks": [said]}
    write_refusals(summarize_verdicts(verdicts), [], [], tmp_path / "page.html", **common, change=change)
    page = (tmp_path / "page.html").read_text()
    assert "alarm at image 126 of 200" in page
    assert "<h3>Component 1 of first: " in page
    assert "Each component below, of the mixture first, has more of the images" in page
    assert ") of the images, 50.0 % of held-out ones" in page
    assert "<h1>Drift at image 126; " in page
    assert re.search(r"Of \d+ images like the calibration images at most about 10 would be refused", page)
    assert f"<figcaption>{PATHS[grown.examples[0]].replace('.', '.<wbr>')}</figcaption>" in page


def test_without_an_alarm_nothing_is_said_to_have_changed(verdicts):
    callback = DriftCallback(threshold=50)
    drift = drift_of(callback, detector(), verdicts)
    assert drift_in_words(drift, callback, PATHS) == [
        "No alarm of drift: the bet against the calibration inputs did not reach 50 times its stake."
    ]
    assert drift_facts(drift, callback, PATHS) == {"against": "stream", "threshold": 50, "alarms": []}
    assert drift.grown == []


@pytest.mark.parametrize(
    ("watched", "reason"),
    [
        (
            SimpleNamespace(alpha=0.05, examples=Examples(), score=SimpleNamespace(component_of=None)),
            "the score has no mixture.",
        ),
        (
            detector(labelled=False),
            "the detector has seen no labelled inputs but those .*`component_report`, or .*fit.",
        ),
    ],
)
def test_without_inputs_that_the_mixture_was_not_fitted_to_no_component_is_named(verdicts, watched, reason):
    assert watched.examples.reference_components().tolist() == []
    assert detector().examples.reference_components().bincount().tolist() == [50, 50]
    callback = DriftCallback()
    callback.alarms = [125, 199]
    drift = drift_of(callback, watched, verdicts)
    assert drift.components == ()
    said = drift_in_words(drift, callback, PATHS)
    assert "1 more window had an alarm." in said
    assert re.fullmatch(f"Components are not compared: {reason}", said[-1])
    facts = drift_facts(drift, callback, PATHS)
    assert (facts["components"], facts["not_compared"]) == ([], drift.unnamed)


def test_where_no_image_after_the_beginning_can_be_read_that_is_said(tmp_path):
    path = tmp_path / "verdicts.csv"
    with VerdictFile(path, "job") as file:
        file.keep(PATHS[:4], 10)
        file.append([unreadable(name, "torn") for name in PATHS[:4]])
        file.finish(4)
    callback = DriftCallback()
    callback.alarms = [3]
    drift = drift_of(callback, detector(), path)
    assert drift_in_words(drift, callback, PATHS)[-1].endswith("not compared: no image from there on can be read.")


@pytest.mark.parametrize("task", ["score", "serve"])
def test_both_tasks_take_the_same_words_and_refuse_the_same(task):
    callback = drift_callback(configure(f"task={task}", "drift=windows", "drift.seconds=15min", "drift.promise=set"))
    monitor = callback.monitor
    assert (monitor.against, monitor.seconds, monitor.threshold, monitor.promise) == ("reference", 900, 10_000, "set")
    assert drift_callback(configure(f"task={task}", "drift=none")) is None
    for said, message in (
        ("drift.seconds=1 hour", "drift: .*seconds: expected a length of time above 0"),
        ("drift.promise=both", "drift: .*promise: expected one of average, set; got 'both'"),
        ("drift.threshold=0.01", "drift: .*threshold: expected a capital above 1"),
        ("+drift.window=3", "drift: .*window"),
    ):
        with pytest.raises(ValueError, match=message):
            drift_callback(configure(f"task={task}", "drift=windows", said))
