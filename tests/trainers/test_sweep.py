"""Jobs that share a cache: nothing is done twice, a killed sweep goes on, and results are those without a cache."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contracts.test_configs import configure
from trainers.data.errors import MissingSetsError
from trainers.main import run_task

TINY = (
    "experiment=demo",
    "debug=fast",
    "attack=[fgsm]",
    "ood=[uniform_noise]",
    "score=log_likelihood",
    "trainer.enable_progress_bar=false",
)


def files(cache: Path, kind: str) -> set[str]:
    return {path.name for path in (cache / kind).glob("*.safetensors")}


def test_jobs_that_differ_by_the_mixture_share_classifier_features_and_attacks(tmp_path):
    alone = run_task(configure(*TINY, "mixture.n_components=2"), tmp_path / "alone")
    cache = tmp_path / "cache"
    shared = (*TINY, f"cache={cache}")
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
    overrides = (*TINY, "data=image_folder", f"data.root={tmp_path / 'none'}", f"cache={tmp_path / 'cache'}")
    with pytest.raises(MissingSetsError, match="data: image folder: there is no folder"):
        run_task(configure(*overrides), tmp_path / "error")
    assert run_task(configure(*overrides, "missing_data=skip"), tmp_path / "skipped") is None
    assert not list((tmp_path / "cache" / "jobs").glob("*/job.json"))


def test_one_error_names_missing_data_in_distribution_and_out_of_it(tmp_path):
    overrides = ("data=image_folder", f"data.root={tmp_path / 'none'}", "ood=[folder]", "ood.folder.root=/nowhere")
    with pytest.raises(MissingSetsError) as caught:
        run_task(configure(*TINY, *overrides), tmp_path)
    assert set(caught.value.errors) == {"data", "ood.folder"}


def sweep(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainers.main", "-m", *TINY, "mixture.n_components=2,3", "seed=0,1"]
    command += [f"cache={folder / 'cache'}", f"hydra.sweep.dir={folder / 'sweep'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_killed_sweep_goes_on_and_does_nothing_twice(tmp_path):
    def jobs() -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/job.json"))]

    killed, deadline = sweep(tmp_path), time.monotonic() + 240
    while len(jobs()) < 2:
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    done = {job["key"] for job in jobs()}
    assert 2 <= len(done) < 4
    resumed = sweep(tmp_path)
    said = resumed.communicate(timeout=240)[0]
    assert resumed.returncode == 0, said
    assert {job["key"] for job in jobs() if job["reused"]} == done
    assert len(jobs()) == len({job["key"] for job in jobs()}) == 4
    assert said.count("nothing runs again") == len(done)
    assert len(files(tmp_path / "cache", "classifiers")) == 2  # one for each seed
    assert len(list((tmp_path / "sweep").glob("*/metrics.json"))) == 4
