"""Images from elsewhere on the command line: plain against weighted, and files weighted by themselves."""

import csv
import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from gmm_torch.conformal import weighted
from gmm_torch.errors import WeightsError
from tests.configuration import configure
from tests.trainers.evaluation.records import made_up
from trainers.data.errors import DataError
from trainers.data.images import ImageArray
from trainers.data.shifts import other_images, other_moments
from trainers.evaluation import weighing
from trainers.evaluation.shifts import rates
from trainers.evaluation.weighing import weighted_detector
from trainers.records.record import Records
from trainers.run.job import run_task
from trainers.run.requirements import refuse_ignored
from trainers.tasks import evaluate

COMMON = (
    "classifier=lenet",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "score=log_likelihood",
    "detector.views=1",
    "mixture.n_components=2",
    "data.calibration_every=3",
    "data.validation_every=5",
    "data.mixture_every=3",
    "attack=[]",
    "ood=[]",
)


def judging(place: Path, *more: str) -> list[str]:
    files = f"classifier.checkpoint={place / 'classifier.safetensors'}", f"checkpoint={place / 'detector.safetensors'}"
    return [*COMMON, *files, *more]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A classifier of digits, its detector, and digits of the test split as files, brighter and as negatives."""
    place = tmp_path_factory.mktemp("digits")
    run_task(configure(*COMMON, "task=train", "trainer.max_epochs=6"), place)
    run_task(configure(*COMMON, "task=fit", f"classifier.checkpoint={place / 'classifier.safetensors'}"), place)
    images = instantiate(configure(*COMMON).data).test_images
    for name, change in (("brighter", lambda x: 0.3 + 0.7 * x), ("negative", lambda x: 1 - x)):
        (place / name).mkdir()
        for i in range(120):
            pixels = (change(images[i][0][0]) * 255).round().byte()
            Image.fromarray(pixels.numpy()).save(place / name / f"{i:03}.png")
    return place


@pytest.fixture(scope="module")
def evaluated(place):
    """`task=evaluate` with a shift; the report has a test of its own."""
    options = ("task=evaluate", "shift=[corruptions,preprocessing]", "corruption=[brightness]", "limit.corruption=20")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "write_report", lambda *_: [])
        run_task(configure(*judging(place, *options)), place / "evaluated")
    return place / "evaluated"


def test_plain_false_alarms_break_the_promise_where_weighted_ones_keep_it(evaluated):
    found = json.loads((evaluated / "metrics.json").read_text())["shifts"]
    assert (found["alpha"], found["calibration"]) == (0.05, "weighted")
    by_kind = {(row["shift"], row["kind"]): row for row in found["rows"]}
    assert list(by_kind)[:2] == [("none", ""), ("corruptions", "brightness 1")]
    assert len(by_kind) == 7
    same, moved = by_kind["none", ""], by_kind["corruptions", "brightness 4"]
    assert all(same[each]["false_alarm_interval"][0] < 0.05 for each in ("plain", "weighted"))
    assert moved["plain"]["false_alarm_interval"][0] > 0.1  # the control: nothing mends it without weights
    assert moved["weighted"]["false_alarm_interval"][0] < 0.05
    assert moved["weighted"]["effective_size"] < same["weighted"]["effective_size"] <= 480
    assert "effective sample size" in moved["weighted"]["in_words"]
    assert moved["n"] == 359 // 2


def test_files_are_weighted_by_themselves_and_the_detector_is_left_behind(
    place, tmp_path, capsys, caplog, recwarn, monkeypatch
):
    monkeypatch.setattr(weighted, "_DOUBTFUL", 480)  # what is doubtful is told once, too
    caplog.set_level("INFO")
    where = f"input={place / 'brighter'}"
    run_task(configure(*judging(place, "task=score", where, "page=2")), tmp_path / "plain")
    run_task(configure(*judging(place, "task=score", where, "calibration=weighted", "page=2")), tmp_path / "weighted")
    refused = {
        name: sum(row["accept"] == "False" for row in rows(tmp_path / name / "verdicts.csv"))
        for name in ("plain", "weighted")
    }
    assert refused["plain"] > 20 > 12 >= refused["weighted"]
    facts = json.loads((tmp_path / "weighted" / "verdicts.facts.json").read_text())
    assert (facts["n"], facts["n_refused"], facts["alpha"]) == (120, refused["weighted"], 0.05)
    assert 19 < facts["calibration"]["effective_size"] < facts["calibration"]["n"] == 480
    said = f"effective sample size {facts['calibration']['effective_size']:.1f}"
    told = capsys.readouterr().out + caplog.text + "".join(str(each.message) for each in recwarn)
    assert told.count("effective sample size") == 1
    assert f"{said} of at least 480 needed" in told
    page = (tmp_path / "weighted" / "verdicts.html").read_text()
    assert said in page
    assert re.search(r"Of 480 calibration images the \d+ heaviest carry half of the weight", page)
    assert "so no band is drawn." in page
    assert "no band is drawn" not in (tmp_path / "plain" / "verdicts.html").read_text()
    assert "Of 120 images like the weighted calibration images at most about 6 would be refused" in page
    again = f"checkpoint={tmp_path / 'weighted' / 'weighted.safetensors'}"
    run_task(configure(*judging(place, "task=score", where, again)), tmp_path / "again")
    assert (tmp_path / "again" / "verdicts.csv").read_bytes() == (tmp_path / "weighted" / "verdicts.csv").read_bytes()


def test_other_proportions_of_classes_are_weighted_by_labels_of_the_data(place, tmp_path, capsys):
    options = ("task=score", f"input={place / 'brighter'}", "calibration=label_shift")
    run_task(configure(*judging(place, *options)), tmp_path)
    facts = json.loads((tmp_path / "verdicts.facts.json").read_text())["calibration"]
    assert facts["name"] == "label_shift"
    assert 19 < facts["effective_size"] < facts["n"] == 480
    assert "Calibration label_shift, from these images: weights by class 0: " in capsys.readouterr().out
    assert ", 9: " in facts["in_words"]


def test_images_of_which_nothing_can_be_said_are_an_error(place, tmp_path):
    weighted = judging(place, "task=score", "calibration=weighted")
    far, few = (configure(*weighted, f"input={place / name}") for name in ("negative", "brighter/001.png"))
    with pytest.raises(WeightsError, match="whose effective sample size is"):
        run_task(far, tmp_path)
    assert not list(tmp_path.glob("verdicts*"))
    with pytest.raises(ValueError, match="deployment inputs: expected at least 20; got 1"):
        run_task(few, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task=run", "calibration=weighted"), "fit with another, then score"),
        (("task=run", "calibration=label_shift"), "fit with another, then score"),
        (("task=evaluate", "calibration=weighted"), "set shift="),
        (("task=evaluate", "shift=[corruptions]"), "set corruption="),
        (("task=evaluate", "shift=[preprocessing]", "limit.shift=5"), "limit.shift"),
        (("task=score", "calibration=weighted", "task.class_names=[a,b]", "input=x"), "leave the names out"),
        (
            ("task=score", "calibration=weighted", "data.calibration_every=2", "data.mixture_every=null", "input=x"),
            "data.calibration_every: expected 3, .* split; got 2, .*set data.calibration_every=3$",
        ),
        (
            ("task=score", "calibration=weighted", "detector.calibration.max_weight=50", "input=x"),
            "alpha=0.05 with .*max_weight=50.* needs at least 950 inputs; got 480",
        ),
    ],
)
def test_what_can_not_be_weighted_is_told_in_words(place, tmp_path, overrides, message):
    (tmp_path / "x").write_text(str(place / "brighter" / "001.png"))
    given = [each.replace("input=x", f"input={tmp_path / 'x'}") for each in overrides]
    fitting = [f"classifier.checkpoint={place / 'classifier.safetensors'}", *COMMON, *given]
    cfg = configure(*(fitting if "task=run" in given else judging(place, *given)))
    with pytest.raises(ValueError, match=message):
        run_task(cfg, tmp_path / "out")


def test_too_few_images_to_compare_others_with_are_told_with_their_option():
    reference = SimpleNamespace(prediction=torch.zeros(19, dtype=torch.long))
    here = SimpleNamespace(reference=reference)
    said = r"at least 20 images in the validation split.*got 19.*data.validation_every"
    with pytest.raises(WeightsError, match=said):
        weighted_detector(None, None, None, here, None)


def test_a_calibration_with_weights_may_stand_beside_a_fitted_detector_where_it_is_used():
    common = ("classifier.checkpoint=x", "checkpoint=y", "calibration=weighted", "detector.calibration.max_weight=3")
    for task in ("score", "evaluate"):
        refuse_ignored(configure(f"task={task}", *common), common)
    for other in (("task=serve", *common), ("task=score", *common, "detector.alpha=0.1")):
        with pytest.raises(ValueError, match="expected no settings of a detector beside checkpoint"):
            refuse_ignored(configure(*other), other)


def test_of_many_files_a_sample_gives_the_weights_whatever_their_order(monkeypatch):
    monkeypatch.setattr(weighing, "MAX_FILES", 5)
    paths = [f"{i}.png" for i in range(40)]
    drawn = weighing._sample(paths, 0)
    assert len(set(drawn)) == 5
    assert sorted(weighing._sample(paths[::-1], 0)) == sorted(drawn)
    assert weighing._sample(paths, 1) != drawn
    assert weighing._sample(paths[:5], 0) == paths[:5]


def test_shifts_are_what_they_say():
    images = ImageArray(torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 1]), ["a", "b"])
    moments = {"mean": [0.2], "std": [0.5], "other_mean": [0.5], "other_std": [0.25]}
    (moved,) = other_moments(images, 0, **moments).values()
    assert torch.allclose((moved[1][0] - 0.2) / 0.5, (images[1][0] - 0.5) / 0.25)
    assert moved[1][1] == 1
    assert torch.equal(pickle.loads(pickle.dumps(moved))[1][0], moved[1][0])  # as for workers that are spawned
    (others,) = other_images(
        images, 0, dataset=lambda: ImageArray(torch.rand(2, 3, 8, 9), torch.tensor([1, 0]))
    ).values()
    assert others[0][0].shape == (1, 4, 4)
    assert others.targets.tolist() == [1, 0]
    with pytest.raises(DataError, match="expected images of the 2 classes"):
        other_images(images, 0, dataset=lambda: ImageArray(torch.rand(1, 1, 8, 8), torch.tensor([2])))


def test_rates_are_those_by_hand():
    p = torch.tensor([0.01, 0.2, 0.3, 0.04, 0.6, 0.9])
    wrong = torch.tensor([True, True, False, False, False, False])
    records: Records = made_up(p, prediction=wrong.long(), p_value=p.double(), accept=p > 0.05)
    found = rates(records, 0.25)
    assert (found["false_alarm_rate"], found["refusal_rate"], found["refusal_rate_at_alpha"]) == (2 / 6, 0.5, 1)
    assert found["false_alarm_interval"][0] < 2 / 6 < found["false_alarm_interval"][1]
    assert rates(records.rows(~wrong), 0.25)["refusal_rate"] is None
    assert rates(records.rows(wrong), 0.25)["refusal_rate_at_alpha"] is None


@pytest.mark.parametrize(("alpha", "share"), [(0.1, 0.0), (0.29, 0.0), (0.3, 0.5), (0.58, 0.5), (0.9, 1.0)])
def test_at_alpha_no_more_than_alpha_of_the_right_predictions_is_refused(alpha, share):
    """Of 100 right predictions 30 tie at the lowest p-value and 60 at the next, where the wrong ones lie too."""
    p = torch.tensor([0.1, 0.2]).repeat_interleave(torch.tensor([30, 60])).tolist() + [0.9] * 10 + [0.1, 0.2]
    wrong = torch.arange(102) >= 100
    records = made_up(torch.tensor(p), prediction=wrong.long(), p_value=torch.tensor(p).double())
    assert rates(records, alpha)["refusal_rate_at_alpha"] == share
