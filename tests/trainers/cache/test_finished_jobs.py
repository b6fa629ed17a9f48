import json

import pytest

from trainers.cache import Cache, remember

CONFIG = {"seed": 0, "paths": {"cache": "anywhere"}, "trainer": {"max_epochs": 1, "enable_progress_bar": True}}


@pytest.fixture
def job(tmp_path):
    """Does a job in a folder of the name; gives its value."""
    ran = []

    def do(name, config=CONFIG, value=0.5):
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)

        def work():
            ran.append(name)
            (folder / "metrics.json").write_text(name)
            (folder / "main.log").write_text(name)
            return value

        return remember(Cache(tmp_path / "cache"), config, folder, work)

    do.ran = ran
    return do


def test_a_job_that_is_done_does_not_run_again(job, tmp_path):
    assert job("first") == 0.5
    assert job("second", value=0.9) == 0.5
    assert job.ran == ["first"]
    assert (tmp_path / "second" / "metrics.json").read_text() == "first"
    assert not (tmp_path / "second" / "main.log").exists()
    told = [json.loads((tmp_path / name / "job.json").read_text()) for name in ("first", "second")]
    assert [each["reused"] for each in told] == [False, True]
    assert told[0]["key"] == told[1]["key"]


def test_other_configs_run_and_other_screens_do_not(job):
    job("first")
    job("quiet", {**CONFIG, "trainer": {"max_epochs": 1, "enable_progress_bar": False}, "paths": {"cache": "here"}})
    job("longer", {**CONFIG, "trainer": {"max_epochs": 2}})
    job("other", {**CONFIG, "seed": 1})
    assert job.ran == ["first", "longer", "other"]


def test_a_job_that_fails_runs_again(job, tmp_path):
    def fail():
        (tmp_path / "failed").mkdir()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        remember(Cache(tmp_path / "cache"), CONFIG, tmp_path / "failed", fail)
    assert job("again") == 0.5
    assert job.ran == ["again"]


def test_writing_to_a_reused_file_by_replacing_it_leaves_the_cache_alone(job, tmp_path):
    job("first")
    job("second")
    new = tmp_path / "new"
    new.write_text("changed")
    new.replace(tmp_path / "second" / "metrics.json")
    job("third")
    assert (tmp_path / "third" / "metrics.json").read_text() == "first"
