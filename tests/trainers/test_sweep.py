"""Jobs that share a cache: nothing is done twice, a killed sweep goes on, and results are those without a cache."""

import json
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.configuration import configure
from tests.processes import application, started
from trainers.data.errors import MissingSetsError
from trainers.run.job import run_task
from trainers.run.run import Run
from trainers.tasks import evaluate, fit
from trainers.tasks import run as run_module

TINY = (
    "experiment=demo",
    "debug=fast",
    "attack=[fgsm]",
    "ood=[uniform_noise]",
    "score=log_likelihood",
    "detector.views=1",
    "trainer.enable_progress_bar=false",
)


def files(cache: Path, kind: str) -> set[str]:
    return {path.name for path in (cache / kind).glob("*.safetensors")}


@pytest.mark.usefixtures("undrawn")
def test_jobs_that_differ_by_the_mixture_share_classifier_features_and_attacks(tmp_path):
    alone = run_task(configure(*TINY, "mixture.n_components=2"), tmp_path / "alone")
    cache = tmp_path / "cache"
    shared = (*TINY, f"paths.cache={cache}")
    first = run_task(configure(*shared, "mixture.n_components=2"), tmp_path / "first")
    made = {kind: files(cache, kind) for kind in ("classifiers", "outputs", "attacks")}
    assert {kind: len(names) for kind, names in made.items()} == {"classifiers": 1, "outputs": 3, "attacks": 1}
    other = run_task(configure(*shared, "mixture.n_components=4"), tmp_path / "other")
    assert {kind: files(cache, kind) for kind in made} == made
    assert first == alone != other
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("alone", "first", "other")]
    aurocs = [{name: source["auroc"] for name, source in each["sources"].items()} for each in metrics]
    assert aurocs[0] == aurocs[1]  # all but the seconds that attacks took
    assert metrics[1]["classifier"] == metrics[2]["classifier"]
    assert metrics[1]["sources"]["adversarial/fgsm"]["n"] == metrics[2]["sources"]["adversarial/fgsm"]["n"]
    assert metrics[1]["held_out_log_likelihood"] != metrics[2]["held_out_log_likelihood"]
    for name in ("first", "other"):
        run = {path.name for path in (tmp_path / name).iterdir()}
        assert run >= {"classifier.safetensors", "detector.safetensors", "scores.csv", "report.html", "job.json"}


def test_a_job_with_missing_data_is_skipped_if_asked_and_not_remembered(tmp_path):
    overrides = (*TINY, "data=image_folder", f"data.root={tmp_path / 'none'}", f"paths.cache={tmp_path / 'cache'}")
    with pytest.raises(MissingSetsError, match=r"data: image folder: expected a folder; got .* does not exist"):
        run_task(configure(*overrides), tmp_path / "error")
    assert run_task(configure(*overrides, "missing_data=skip"), tmp_path / "skipped") is None
    assert not list((tmp_path / "cache" / "jobs").glob("*/job.json"))


def test_one_error_names_missing_data_in_distribution_and_out_of_it(tmp_path):
    overrides = ("data=image_folder", f"data.root={tmp_path / 'none'}", "ood=[folder]", "ood.folder.root=/nowhere")
    with pytest.raises(MissingSetsError) as caught:
        run_task(configure(*TINY, *overrides), tmp_path)
    assert set(caught.value.errors) == {"data", "ood.folder"}


def sweep(folder: Path) -> BaseProcess:
    words = ("-m", *TINY, "mixture.n_components=2,3", "seed=0,1")
    words += (f"paths.cache={folder / 'cache'}", f"hydra.sweep.dir={folder / 'sweep'}")
    return started(without_a_report, words, folder, folder / "said")


def without_a_report(*words: str) -> None:
    evaluate.write_report = lambda *_: []
    application(*words)


def test_a_killed_sweep_goes_on_and_does_nothing_twice(tmp_path):
    def jobs() -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/job.json"))]

    killed, deadline = sweep(tmp_path), time.monotonic() + 240
    while len(jobs()) < 2:
        assert killed.is_alive(), (tmp_path / "said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    done = {job["key"] for job in jobs()}
    assert 2 <= len(done) < 4
    (tmp_path / "said").unlink()
    resumed = sweep(tmp_path)
    resumed.join(240)
    said = (tmp_path / "said").read_text()
    assert resumed.exitcode == 0, said
    assert {job["key"] for job in jobs() if job["reused"]} == done
    assert len(jobs()) == len({job["key"] for job in jobs()}) == 4
    assert said.count("nothing runs again") == len(done)
    assert len(files(tmp_path / "cache", "classifiers")) == 2  # one for each seed
    assert len(list((tmp_path / "sweep").glob("*/metrics.json"))) == 4


def numbers(folder: Path) -> dict[str, bytes]:
    """All that a job found."""
    names = ("metrics.json", "scores.csv", "classifier.safetensors", "detector.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.usefixtures("no_report")
def test_a_folder_and_a_cache_that_are_used_twice_give_what_new_ones_give(tmp_path):
    """A file that lies in the folder says nothing of what is in memory, nor that it is of this configuration."""
    shared = (*TINY, f"paths.cache={tmp_path / 'cache'}")
    folder = tmp_path / "twice"
    run_task(configure(*shared, "mixture.n_components=2"), folder)
    (folder / "timings.json").write_text("[]")  # of an earlier run that timed something
    (folder / "notes.txt").write_text("the user's")
    first = numbers(folder)
    run_task(configure(*shared, "mixture.n_components=4"), folder)
    run_task(configure(*TINY, "mixture.n_components=4"), tmp_path / "alone")
    assert numbers(folder) == numbers(tmp_path / "alone")
    # and what the cache keeps of both is theirs alone
    run_task(configure(*shared, "mixture.n_components=2"), tmp_path / "again")
    run_task(configure(*shared, "mixture.n_components=4"), folder)
    assert numbers(tmp_path / "again") == first
    assert numbers(folder) == numbers(tmp_path / "alone")
    assert not (tmp_path / "again" / "notes.txt").exists()
    assert (folder / "notes.txt").exists()


@pytest.mark.usefixtures("no_report")
def test_a_job_that_is_killed_after_training_is_scored_with_what_it_learned(tmp_path, monkeypatch):
    shared = (*TINY, f"paths.cache={tmp_path / 'cache'}")
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "fit_detector", lambda run: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            run_task(configure(*shared), tmp_path / "killed")
    run_task(configure(*shared), tmp_path / "killed")
    run_task(configure(*TINY), tmp_path / "whole")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


@pytest.mark.usefixtures("no_report")
def test_features_in_another_precision_are_not_taken_from_the_cache(tmp_path):
    shared = (*TINY, "attack=[]", f"paths.cache={tmp_path / 'cache'}")
    run_task(configure(*shared), tmp_path / "first")
    weights = f"classifier.checkpoint={tmp_path / 'first' / 'classifier.safetensors'}"
    run_task(configure(*shared, "task=fit", weights, "+trainer.precision=bf16-mixed"), tmp_path / "second")
    assert len(files(tmp_path / "cache", "outputs")) == 6


def test_a_second_run_in_a_folder_is_refused_while_the_first_is_at_work(tmp_path, monkeypatch):
    run_task(configure(*TINY, "task=train"), tmp_path / "run")
    weights = f"classifier.checkpoint={tmp_path / 'run' / 'classifier.safetensors'}"

    def second(run):
        with pytest.raises(ValueError, match="no other run is writing to"):
            run_task(configure(*TINY, "task=train"), tmp_path / "run")
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(fit, "fit_detector", second)
        with pytest.raises(InterruptedError):
            run_task(configure(*TINY, "task=fit", weights), tmp_path / "run")
    run_task(configure(*TINY, "task=fit", weights), tmp_path / "run")  # what ended, however, holds nothing
    assert not list((tmp_path / "run").glob(".*"))


def test_a_run_that_is_refused_leaves_the_config_of_the_results_that_stay(tmp_path):
    run_task(configure(*TINY, "task=train"), tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ValueError, match="alpha"):
        run_task(configure(*TINY, "detector.alpha=2"), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("undrawn")
def test_numbers_of_another_run_do_not_stay_beside_a_new_detector(tmp_path):
    run_task(configure(*TINY), tmp_path)
    weights = f"classifier.checkpoint={tmp_path / 'classifier.safetensors'}"
    run_task(configure(*TINY, "task=fit", "mixture.n_components=2", weights), tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "config.yaml", "classifier.safetensors", "detector.safetensors",
    }  # fmt: skip


def test_a_cache_may_lie_in_the_folder_of_the_run(tmp_path):
    run_task(configure(*TINY, "task=train", f"paths.cache={tmp_path / 'run' / 'cache'}"), tmp_path / "run")
    jobs = list((tmp_path / "run" / "cache" / "jobs").glob("*/"))
    assert [path.name for job in jobs for path in job.glob("*.safetensors")] == ["classifier.safetensors"]
    assert not [job for job in jobs if (job / "cache").exists()]


def test_cached_results_are_those_of_a_network_with_the_same_options_wherever_its_weights_lie(tmp_path):
    other = (), ("classifier.checkpoint=weights.pt",), ("+classifier.width=32",), ("classifier.spectral_norm=true",)
    networks = [Run(configure(*TINY, *options), tmp_path).network for options in other]
    assert networks[0] == networks[1]
    assert networks[0] not in networks[2:]
