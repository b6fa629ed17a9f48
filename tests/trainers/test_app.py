"""The application from end to end, and what it says about mistakes."""

import csv
import json
import logging
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from gmm_torch.detector.file import read
from gmm_torch.features import sample
from tests.configuration import configure
from tests.drawing import figures_left_empty
from tests.processes import application, started
from trainers.evaluation import split_outputs
from trainers.evaluation.metrics_file import read_metrics, without_times
from trainers.run import run
from trainers.run.job import run_task
from trainers.run.requirements import refuse_ignored
from trainers.run.trainer import make_trainer

FAST = (
    "experiment=demo",
    "debug=fast",
    "trainer.limit_train_batches=null",
    "trainer.max_epochs=5",
    "trainer.enable_progress_bar=false",
    "attack=[digits,pgd_sweep]",
    "attack.fgsm.epsilon=1e-6",  # finds nothing, and says so
    "attack.cw_l2.method.binary_search_steps=2",
    "attack.cw_l2.method.steps=20",
    "attack.cw_l2.method.stepsize=0.05",
    "attack.pgd_sweep.epsilons=[0.1,0.3]",
    "corruption=[gaussian_noise,fog]",
)


TRAINERS: list[dict[str, object]] = []  # what each Trainer of `finished` was made with


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")

    def counted(*arguments, **changes):
        TRAINERS.append(changes)
        return make_trainer(*arguments, **changes)

    with pytest.MonkeyPatch.context() as patched, figures_left_empty():
        patched.setattr(run, "make_trainer", counted)
        run_task(configure(*FAST), folder)
    return folder


def app(*words: str, folder: Path) -> tuple[int | None, str]:
    """The exit code of a command in an empty folder, and what it says."""
    process = started(application, words, folder, folder / "said")
    process.join()
    return process.exitcode, (folder / "said").read_text()


def test_metrics_hold_what_outside_readers_look_for(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert 0.5 < metrics["classifier"]["test_accuracy"] <= 1
    assert metrics["calibration"]["n"] == 240  # a third of the split is the reference
    assert set(metrics["calibration"]["false_alarm_rate"]) == {"0.01", "0.05", "0.1"}
    assert {"seed", "versions", "device"} <= set(metrics)
    expected = {"errors", "ood/patches", "ood/uniform_noise", "ood/gaussian_noise"}
    expected |= {f"adversarial/{name}" for name in ("fgsm", "bim", "pgd", "deepfool", "cw_l2")}
    assert set(metrics["sources"]) == expected
    for source in metrics["sources"].values():
        keys = {"n", "auroc", "aupr_in", "aupr_out", "fpr_at_95_tpr", "mann_whitney_p", "ks_p", "baselines"}
        assert keys <= set(source)
        if source["n"] > 1:
            assert 0 <= source["auroc"] <= 1
            assert 0 <= source["baselines"]["max_softmax"]["auroc"] <= 1


def test_one_trainer_serves_all_predictions(finished):
    assert len([changes for changes in TRAINERS if changes.get("enable_checkpointing") is False]) == 1
    assert len([changes for changes in TRAINERS if "strategy" not in changes]) == 1  # trains; the others fit by EM


def test_scores_hold_one_row_per_image_and_agree_with_the_metrics(finished):
    with open(finished / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    clean = [row for row in rows if row["source"] == "test"]
    metrics = json.loads((finished / "metrics.json").read_text())
    accuracy = sum(row["label"] == row["prediction"] for row in clean) / len(clean)
    assert len(clean) == 359
    assert accuracy == pytest.approx(metrics["classifier"]["test_accuracy"])
    alarms = sum(float(row["p_value"]) <= 0.05 for row in clean) / len(clean)
    assert alarms == pytest.approx(metrics["calibration"]["false_alarm_rate"]["0.05"])
    assert all((row["accept"] == "True") == (float(row["p_value"]) > 0.05) for row in rows)
    for name, source in metrics["sources"].items():
        if name != "errors":
            assert sum(row["source"] == name for row in rows) == source["n"]


def test_budgets_corruptions_and_doubts_are_measured_and_shown(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    points = metrics["sweeps"]["pgd_sweep"]
    assert [point["epsilon"] for point in points] == [0.1, 0.3]
    assert points[0]["success_rate"] <= points[1]["success_rate"]
    assert points[1]["n"] > 0
    assert 0 <= points[1]["evasion_rate"] <= points[1]["success_rate"]
    attacks = {name: each for name, each in metrics["sources"].items() if name.startswith("adversarial/")}
    assert attacks["adversarial/cw_l2"]["evasion_rate"] <= 1
    together = metrics["every_attack"]
    assert together["attacks"] == [name.removeprefix("adversarial/") for name in attacks]
    assert together["n_attacked"] <= min(each["n_attacked"] for each in attacks.values())
    assert together["n"] > 0
    kinds = metrics["corruptions"]["kinds"]
    assert set(kinds) == {"gaussian_noise", "fog"}
    assert [point["severity"] for point in kinds["fog"]] == [1, 2, 3, 4, 5]
    assert {point["n"] for points in kinds.values() for point in points} == {20}
    assert kinds["fog"][4]["coverage"] < metrics["corruptions"]["clean"]["coverage"]
    assert "fgsm" in metrics["attack_doubts"]
    page = (finished / "report.html").read_text()
    assert 'id="budgets"' in page
    assert 'id="corruptions"' in page
    assert f"Of {together['n_attacked']} images that every attack" in page
    assert metrics["attack_doubts"]["fgsm"][0] in page


def test_uniform_noise_is_told_from_digits(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["sources"]["ood/uniform_noise"]["auroc"] > 0.9


def test_the_report_shows_the_components_and_why_images_were_refused(finished):
    page = (finished / "report.html").read_text()
    assert 'id="components"' in page
    assert 'class="sheet"' in page
    assert page.count('class="reason"') >= 2
    assert 'class="near"' in page
    assert "on the calibration images p = " in page


def test_a_mixture_has_the_name_of_its_part_in_the_report_and_in_files(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    page = (finished / "report.html").read_text()
    assert metrics["component_of"] == "moment_likelihood"
    mixtures = {"moment_likelihood": "the features of the layers", "logit_likelihood": "the classifier&#39;s outputs"}
    for name, over in mixtures.items():
        section = page.split(f"<h3>Mixture {name}, over {over}</h3>")[1].split("<h3>")[0]
        assert f">component of<br>{name}</th>" in section
        assert ("The column component of scores.csv" in section) == (name == metrics["component_of"])
    assert re.search(r"clean test images by component of \w+_likelihood; ", page)
    assert "moment likelihood" not in page
    assert "logit likelihood" not in page


@pytest.mark.usefixtures("no_report")
def test_a_fit_that_does_not_converge_is_told_once_with_the_options_of_a_run(finished, tmp_path, caplog, recwarn):
    weights = f"classifier.checkpoint={finished / 'classifier.safetensors'}"
    run_task(configure(*FAST, "task=fit", weights, "mixture.em.max_iter=2", "mixture.em.tol=1e-9"), tmp_path)
    said = [line for line in caplog.messages if "EM stopped" in line]
    parts = ("moment_likelihood", "logit_likelihood", "augmentation_consistency")
    assert [line.partition(": ")[0] for line in said] == [f"mixture of {part}" for part in parts]
    assert all("after mixture.em.max_iter=2 iterations" in line and "raise mixture.em." in line for line in said)
    assert not [each for each in recwarn if "EM stopped" in str(each.message)]


def test_a_count_of_a_part_of_a_split_says_which_part_it_is(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    split, ranked = metrics["splits"], metrics["calibration"]["n"]
    fitted = metrics["n_kept"] - metrics["n_held_out_of_mixtures"]
    assert metrics["n_kept"] == split["mixture"] > fitted > 0
    page = (finished / "report.html").read_text()
    assert f"<dt>Mixtures fitted to</dt><dd>{fitted} of {split['mixture']}; the other" in page
    assert f"<dt>Calibrated on</dt><dd>{ranked} of {split['calibration']}; the other" in page


def test_files_hold_no_pickle(finished):
    for name in ("classifier.safetensors", "detector.safetensors"):
        with safe_open(finished / name, framework="pt") as file:
            assert list(file.keys())


@pytest.mark.usefixtures("no_report")
def test_the_same_seed_gives_the_same_bytes(finished, tmp_path):
    run_task(configure(*FAST), tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    metrics = read_metrics(finished / "metrics.json")
    assert metrics["sources"]["adversarial/pgd"]["seconds_per_image"] > 0
    assert without_times(metrics) == json.loads((finished / "metrics.json").read_text())


@pytest.mark.usefixtures("no_report")
def test_fit_and_evaluate_from_files_repeat_the_run(finished, tmp_path):
    weights = f"classifier.checkpoint={finished / 'classifier.safetensors'}"
    run_task(configure(*FAST, "task=fit", weights), tmp_path / "fit")
    detector = f"checkpoint={tmp_path / 'fit' / 'detector.safetensors'}"
    sources = [override for override in FAST if not re.match(r"attack=|attack\.pgd_sweep|corruption", override)]
    sources += ["attack=[digits]", "corruption=[]"]
    run_task(configure(*sources, "task=evaluate", weights, detector), tmp_path / "evaluate")
    again = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    once = json.loads((finished / "metrics.json").read_text())
    assert again["sources"]["ood/patches"] == once["sources"]["ood/patches"]
    assert again["calibration"] == once["calibration"]


def test_fitting_keeps_a_sample_and_writes_no_file_that_grows_with_the_images(finished, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    weights, cache = f"classifier.checkpoint={finished / 'classifier.safetensors'}", f"paths.cache={tmp_path / 'cache'}"
    monkeypatch.setattr(sample, "MAX_INPUTS", 100)
    monkeypatch.setattr(split_outputs, "MAX_BYTES", 0)
    for name in ("fit", "again"):
        alpha = f"detector.alpha={0.05 if name == 'fit' else 0.1}"
        run_task(configure(*FAST, "task=fit", weights, cache, alpha), tmp_path / name)
        header, _ = read(tmp_path / name / "detector.safetensors")
        assert header.n_kept == 100 < header.n_fitted
        assert "fit: mixtures to 80 of 100 images; the other 20 are a reference of the score" in caplog.text
        assert re.search(r"calibration: \d+ of 360 images; the other \d+ are a reference of the score", caplog.text)
        assert re.search(r"fit mixture 2, of logit_likelihood: 3 components of type full, \d+ points", caplog.text)
    assert len(list((tmp_path / "cache" / "outputs").glob("*.safetensors"))) == 1


@pytest.mark.usefixtures("undrawn")
def test_neighbours_are_not_shown_where_the_detector_was_fitted_to_other_images(finished, tmp_path):
    files = (
        f"classifier.checkpoint={finished / 'classifier.safetensors'}",
        f"checkpoint={finished / 'detector.safetensors'}",
    )
    others = [override for override in FAST if not override.startswith(("attack", "corruption"))]
    less = ("attack=[]", "corruption=[]", "ood=[uniform_noise]")
    for seed, shown in ((0, True), (1, False)):  # the seed chooses the images that keep their labels
        folder = tmp_path / str(seed)
        run_task(configure(*others, "task=evaluate", *less, f"seed={seed}", *files), folder)
        page = (folder / "report.html").read_text()
        assert 'class="reason"' in page
        assert ('class="near"' in page) == shown


def test_labels_reach_a_score_that_was_told_to_use_them(finished, tmp_path, caplog):
    weights = f"classifier.checkpoint={finished / 'classifier.safetensors'}"
    for labels in ("true", "false"):
        score = ("score=mahalanobis", f"detector.score.labels={labels}", "calibration=mondrian", "detector.views=1")
        with caplog.at_level(logging.INFO):
            run_task(configure(*FAST, "task=fit", weights, *score), tmp_path / labels)
        assert "calibration, mondrian: " in caplog.text
    means = []
    for labels in ("true", "false"):
        with safe_open(tmp_path / labels / "detector.safetensors", framework="pt") as file:
            means.append(file.get_tensor("score.mixtures.0.centred_means"))
    assert means[0].shape == means[1].shape
    assert not torch.equal(*means)


def test_score_writes_a_verdict_for_every_image_of_a_folder(finished, tmp_path):
    folder = tmp_path / "images"
    for i in range(5):
        pixels = torch.randint(0, 256, (8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        (folder / "deeper").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(folder / "deeper" / f"{i}.png")
    files = (
        f"classifier.checkpoint={finished / 'classifier.safetensors'}",
        f"checkpoint={finished / 'detector.safetensors'}",
    )
    run_task(configure(*FAST, "task=score", *files, f"input={folder}"), tmp_path / "out")
    with open(tmp_path / "out" / "verdicts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == [f"{i}.png" for i in range(5)]
    assert all(0 < float(row["p_value"]) <= 1 for row in rows)


def test_images_of_another_shape_than_the_detectors_are_refused(finished, tmp_path):
    files = (
        f"classifier.checkpoint={finished / 'classifier.safetensors'}",
        f"checkpoint={finished / 'detector.safetensors'}",
    )
    (tmp_path / "image.png").write_bytes(b"")
    names = f"task.class_names=[{','.join(map(str, range(10)))}]"
    for task in (("task=score", names, f"input={tmp_path / 'image.png'}"), ("task=serve", names)):
        with pytest.raises(ValueError, match=r"data.image_shape: expected \[1,8,8\], of .*; got \[1,16,16\]"):
            run_task(configure(*FAST, *task, *files, "data.image_shape=[1,16,16]"), tmp_path / "out")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task=fit",), "set classifier.checkpoint="),
        (("task=train", "training=none"), "set training="),
        (("task=evaluate", "classifier.checkpoint=x.safetensors"), "set checkpoint="),
        (("task=score", "classifier.checkpoint=x.safetensors", "checkpoint=y"), "set input="),
        (("task=fit", "classifier.checkpoint=/nowhere/x.safetensors"), "/nowhere/x.safetensors"),
        (("detector.alpha=2",), "alpha: expected a number between 0 and 1"),
        (("mixture.em.tol=-1",), "tol: expected a finite number >= 0"),
        (("task=summarize", "input=/nowhere"), "/nowhere"),
        (("seed=abc",), "^seed: expected a whole number; got 'abc'"),
        (("data.batch_size=foo",), "^data.batch_size: expected a whole number; got 'foo'"),
        (("optimizer.lr=fast",), "^optimizer.lr: expected a number; got 'fast'"),
        (("+optimizer.speed=1",), "^optimizer: .*'speed'"),
        (("trainer.accelerator=tpu",), "^trainer: .* trainer=cpu runs on any machine"),
        (("trainer.max_epochs=many",), "^trainer.max_epochs: expected a whole number; got 'many'"),
        (("+detector.view=1",), "^detector: .*'view'"),
        (("detector.views=true",), "^detector: views: expected a whole number; got True"),
        (("mixture.em.max_iter=2.5",), "max_iter: expected a whole number; got 2.5"),
        (("+mixture.em.max_itr=3",), "^mixture.em: .*max_itr"),
        (("data=image_folder",), "data.root: expected a value"),
        (("ood=[folder]",), "ood.folder.root: expected a value"),
    ],
)
def test_a_mistake_is_told_before_any_work(overrides, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError, RuntimeError), match=message):
        run_task(configure("experiment=demo", *overrides), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"config.yaml"}


def test_the_command_ends_a_mistake_with_one_line_and_a_code(tmp_path):
    code, said = app("experiment=demo", "seed=abc", folder=tmp_path)
    assert code == 2
    (line,) = (line for line in said.splitlines() if line.strip())
    assert "seed: expected a whole number; got 'abc'" in line


REFUSED = "expected no settings of a detector beside checkpoint="


@pytest.mark.parametrize("override", ["score=max_softmax", "calibration=mondrian"])
def test_settings_of_a_detector_are_refused_beside_one_that_is_fitted(override):
    overrides = ("task=evaluate", "classifier.checkpoint=x", "checkpoint=y", override)
    with pytest.raises(ValueError, match=f"^{override}: {REFUSED}"):
        refuse_ignored(configure(*overrides), overrides)


def test_the_command_refuses_settings_of_a_detector_beside_one_that_is_fitted(tmp_path):
    words = ("task=evaluate", "classifier.checkpoint=x", "checkpoint=y", "detector.alpha=0.3")
    code, said = app(*words, folder=tmp_path)
    assert code == 2
    assert f"detector.alpha=0.3: {REFUSED}" in said


def test_the_command_lists_the_options_when_one_is_unknown(tmp_path):
    code, said = app("data=nothing", folder=tmp_path)
    assert code == 1
    assert "Could not find 'data/nothing'" in said
    assert "fashion_mnist" in said
    assert "Traceback" not in said


def test_the_command_refuses_an_unknown_key(tmp_path):
    code, said = app("mixture.n_component=3", folder=tmp_path)
    assert code == 1
    assert "n_component" in said
    assert "Traceback" not in said
