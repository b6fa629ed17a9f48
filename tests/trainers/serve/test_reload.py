"""Another detector takes the place of one in force, without a request that fails, or with a reason why not."""

import copy
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gmm_torch import FailureDetector
from tests.trainers.serve.conftest import blocked, counted, png, serving
from trainers.serve.served import version_of


@pytest.fixture
def stricter(detector):
    """The same detector with another alpha."""
    found = copy.deepcopy(detector)
    found.alpha = 0.2
    return found


def test_versions_differ_where_detectors_do(detector, stricter):
    assert version_of(detector) == version_of(copy.deepcopy(detector))
    other = copy.deepcopy(detector)
    with torch.no_grad():
        other.classifier.layers[3].bias[0] += 1e-3
    assert len({version_of(each) for each in (detector, stricter, other)}) == 3


def test_requests_in_flight_are_all_answered_each_by_one_detector(detector, stricter, held_out):
    old, new = version_of(detector), version_of(stricter)
    expected = {old: detector(held_out[:40] / 255), new: stricter(held_out[:40] / 255)}
    order = [copy.deepcopy(each) for each in (stricter, detector) * 3]  # as from files: nothing that judges already
    with serving(detector, {"load": lambda: order.pop(0)}, max_batch=4) as client, ThreadPoolExecutor(9) as pool:
        done = threading.Event()

        def ask(i):
            found = []
            while not done.is_set() or not found:
                rows = [(i + k) % 40 for k in range(3)]
                files = [("image", (str(row), png(held_out[row]))) for row in rows]
                found.append((rows, client.post("/predict/batch", files=files)))
            return found

        asking = [pool.submit(ask, 5 * i) for i in range(8)]
        reloads = [client.post("/reload") for _ in range(6)]
        done.set()
        answered = [each for future in asking for each in future.result()]
        samples = counted(client)
    assert [each.json() for each in reloads] == [{"detector": v, "changed": True} for v in [new, old] * 3]
    assert {answer.status_code for _, answer in answered} == {200}
    for rows, answer in answered:
        answers = [item["answer"] for item in answer.json()["items"]]
        (version,) = {each["detector"] for each in answers}  # no request is judged by two
        verdict = expected[version]
        assert [each["accept"] for each in answers] == verdict.accept[rows].tolist()
        assert {each["alpha"] for each in answers} == {0.05 if version == old else 0.2}
    assert samples["gmm_torch_reloads_total", "done"] == 6
    assert samples["gmm_torch_detector_info", old] == 1
    assert ("gmm_torch_detector_info", new) not in samples


def test_a_request_keeps_the_detector_that_it_came_to(detector, stricter, held_out):
    with serving(detector, {"load": lambda: stricter}, max_batch=1) as client, ThreadPoolExecutor(2) as pool:
        with blocked(client) as entered:
            before = pool.submit(client.post, "/predict", content=png(held_out[0]))
            entered.wait(10)
            reload = pool.submit(client.post, "/reload")
        assert reload.result().json()["changed"]
        assert before.result().json()["detector"] == version_of(detector)
        assert client.post("/predict", content=png(held_out[0])).json()["detector"] == version_of(stricter)
        assert client.get("/v2/models/gmm_torch").json()["versions"] == [version_of(stricter)]
        health = client.get("/health").json()
    assert (health["detector"], health["alpha"]) == (version_of(stricter), 0.2)


def test_what_was_told_of_a_detector_keeps_none_that_was_replaced(detector, stricter, held_out):
    known = copy.deepcopy(detector)
    known.preprocessing = {"file_size": "1 x 1"}
    with serving(known, {"load": lambda: stricter}) as client:
        assert client.post("/predict", content=png(held_out[0])).status_code == 200
        before = weakref.ref(client.app.state.service.served)
        assert before().told_of_size
        assert client.post("/reload").json()["changed"]
        assert (
            client.post("/predict", content=png(held_out[0])).status_code == 200
        )  # what judges forgets its last batch
        gc.collect()
        assert before() is None


def test_what_cannot_serve_leaves_the_detector_in_force_and_says_why(detector, held_out, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no detector")
    loads = [
        lambda: FailureDetector.load(tmp_path / "bad.safetensors", detector.classifier),
        lambda: FailureDetector.load(tmp_path / "none.safetensors", detector.classifier),
        lambda: FailureDetector(detector.classifier),
        lambda: copy.deepcopy(detector),
    ]
    with serving(detector, {"load": lambda: loads.pop(0)()}) as client:
        for message in ("no safetensors file", "nothing at", "fit"):
            answer = client.post("/reload")
            assert answer.status_code == 422
            assert f"detector {version_of(detector)} stays" in answer.json()["detail"]
            assert message in answer.json()["detail"]
            assert client.post("/predict", content=png(held_out[0])).status_code == 200
        assert client.post("/reload").json() == {"detector": version_of(detector), "changed": False}
        samples = counted(client)
    assert samples["gmm_torch_reloads_total", "failed"] == 3


def test_one_reload_at_a_time_and_none_where_nobody_said_how(client, detector):
    gate, entered = threading.Event(), threading.Event()

    def load():
        entered.set()
        gate.wait(10)
        return copy.deepcopy(detector)

    assert client.post("/reload").status_code == 501
    with serving(detector, {"load": load}) as other, ThreadPoolExecutor(1) as pool:
        first = pool.submit(other.post, "/reload")
        entered.wait(10)
        assert other.post("/reload").status_code == 409
        gate.set()
        assert first.result().status_code == 200
