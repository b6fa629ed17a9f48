"""`gmm-torch task=serve` from its files to its end."""

import os
import re
import signal
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import torch
from fastapi import FastAPI

from gmm_torch import FailureDetector
from tests import processes
from tests.configuration import configure
from tests.trainers.serve.conftest import digit_images, png
from trainers.classifiers.build import build_classifier
from trainers.classifiers.checkpoint import save_weights
from trainers.run import requirements
from trainers.run.job import run_task
from trainers.serve.server import run_app

NETWORK = ("classifier=small_cnn", "+classifier.width=8")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[str, str]:
    """Overrides that name a classifier and its detector."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    classifier = build_classifier(configure(*NETWORK).classifier, 10, (1, 8, 8)).eval()
    save_weights(classifier, folder / "classifier.safetensors")
    x = digit_images()[0][:300] / 255
    detector = FailureDetector(classifier, n_components=2, views=1)
    detector.fit(x[:200].split(100)).calibrate(x[200:].split(100)).save(folder / "detector.safetensors")
    return f"classifier.checkpoint={folder / 'classifier.safetensors'}", f"checkpoint={folder / 'detector.safetensors'}"


@contextmanager
def application(*arguments: str, cwd: Path):
    """The application in a process of its own; yields it and the address that it prints."""
    said = cwd / "said"
    words = ("task=serve", "task.port=0", *NETWORK, *arguments)
    process = processes.started(processes.application, words, cwd, said)
    try:
        while not (said.exists() and (found := re.search(r"listening on (\S+) ", said.read_text()))):
            assert process.is_alive(), said.read_text()
            time.sleep(0.05)
        yield process, found[1]
    finally:
        process.kill()


def test_it_serves_this_machine_alone_until_it_is_told_to_end(files, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"number {i}" for i in range(10)) + "\n")
    # the data are nowhere: the names take their place
    path, log = tmp_path / "detector.safetensors", tmp_path / "requests.jsonl"
    good = Path(files[1].removeprefix("checkpoint=")).read_bytes()
    path.write_bytes(good)
    arguments = (files[0], f"checkpoint={path}", f"task.class_names={names}", "data=image_folder")
    arguments += ("data.image_shape=[1,8,8]", "task.drain=600", f"task.log={log}")
    arguments += ("classifier.normalize.mean=[0.3]", "classifier.normalize.std=[0.4]")
    with application(*arguments, cwd=tmp_path) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        while httpx2.get(f"{address}/health", timeout=30).json()["status"] == "starting":
            time.sleep(0.1)

        def predict():
            return httpx2.post(f"{address}/predict", content=png(digit_images()[0][0]), timeout=30).json()

        before = predict()
        assert before["class_name"].startswith("number ")
        # SIGHUP: another detector in the same file, then none
        other = FailureDetector.load(path, build_classifier(configure(*NETWORK, files[0]).classifier, 10, (1, 8, 8)))
        other.alpha = 0.2
        other.save(path)
        os.kill(process.pid, signal.SIGHUP)
        while predict()["detector"] == before["detector"]:
            time.sleep(0.1)
        assert predict()["alpha"] == 0.2
        path.write_bytes(good[:1000])
        os.kill(process.pid, signal.SIGHUP)
        while 'reloads_total{result="failed"} 1.0' not in httpx2.get(f"{address}/metrics", timeout=30).text:
            time.sleep(0.1)
        assert predict()["alpha"] == 0.2
        # SIGTERM: not ready, but there; SIGINT: gone
        os.kill(process.pid, signal.SIGTERM)
        while httpx2.get(f"{address}/v2/health/ready", timeout=30).status_code == 200:
            time.sleep(0.1)
        assert httpx2.get(f"{address}/v2/health/live", timeout=30).status_code == 200
        assert "accept" in predict()
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
        assert process.exitcode == 0
    assert '"event": "decision"' in log.read_text()
    assert "truncated or no safetensors file" in (tmp_path / "said").read_text()


def test_class_names_come_from_the_data_and_limits_from_the_config(files, tmp_path, monkeypatch):
    caught = {}
    monkeypatch.setattr("trainers.serve.server.run_app", lambda app, *at: caught.update(app=app, at=at))
    said = ("task.limits.max_batch=7", "task.host=::1", "drift=windows", "drift.promise=set")
    run_task(configure("task=serve", *NETWORK, *files, *said), tmp_path)
    service = caught["app"].state.service
    monitor = service.served.drift.monitor
    assert (monitor.seconds, monitor.threshold, monitor.promise) == (3600, 10_000, "set")
    assert list(service.class_names) == [str(i) for i in range(10)]
    assert service.limits.max_batch == 7
    assert caught["at"] == ("::1", 8000, 0.0)


def test_a_detector_for_images_resized_in_another_way_does_not_take_over(files, tmp_path, monkeypatch):
    """The service decodes images as the first detector's file says, where data of one size say nothing."""
    caught = {}
    monkeypatch.setattr("trainers.serve.server.run_app", lambda app, *at: caught.update(app=app))
    path = tmp_path / "detector.safetensors"
    path.write_bytes(Path(files[1].removeprefix("checkpoint=")).read_bytes())
    run_task(configure("task=serve", *NETWORK, files[0], f"checkpoint={path}"), tmp_path)
    load = caught["app"].state.service.load
    other = load()
    other.preprocessing |= {"crop_share": 0.5}
    other.save(path)
    with pytest.raises(ValueError, match=r"reload: expected images .* resized in the same way"):
        load()


def test_a_mistake_is_told_before_the_port_opens(files, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.serve.server.run_app", lambda *_: pytest.fail("opened"))
    for overrides, message in (
        ((files[1],), "set classifier.checkpoint="),
        ((files[0],), "set checkpoint="),
        ((*files, "task.limits.max_batch=0"), "max_batch: expected an integer >= 1"),
        ((*files, "task.class_names=[a,b]"), r"num_classes|does not fit"),
        ((*files, "drift=martingale"), "drift: expected reference or windows, and drift.stop=false, for task=serve"),
        ((*files, "drift.stop=true"), "drift: expected reference or windows, and drift.stop=false, for task=serve"),
    ):
        with pytest.raises(ValueError, match=message):
            run_task(configure("task=serve", *NETWORK, *overrides), tmp_path)


def test_without_the_extra_it_says_what_to_install(files, tmp_path, monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(ValueError, match=r"needs uvicorn: pip install -e '\.\[serve\]'"):
        run_task(configure("task=serve", *NETWORK, *files), tmp_path)


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"can't listen on 127.0.0.1, port {port}"):
            run_app(FastAPI(), "127.0.0.1", port)
