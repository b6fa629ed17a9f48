"""Who may ask, and what is written down about it."""

import hashlib
import json

import pytest

from tests.trainers.serve.conftest import SHAPE, png, serving
from trainers.serve import create_app
from trainers.serve.keys import ENVIRONMENT, key_of_environment
from trainers.serve.request_log import RequestLog, request_id

KEY = "correct-horse"
GUARDED = [
    ("POST", "/predict"), ("POST", "/predict/batch"), ("GET", "/calibration?prediction=1"), ("GET", "/metrics"),
    ("GET", "/drift"), ("POST", "/reload"), ("GET", "/v2"), ("GET", "/v2/models/gmm_torch"),
    ("GET", "/v2/models/gmm_torch/ready"), ("POST", "/v2/models/gmm_torch/infer"),
]  # fmt: skip
OPEN = ["/", "/health", "/v2/health/live", "/v2/health/ready", "/openapi.json"]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "requests.jsonl"


@pytest.fixture(scope="module")
def locked(detector, log):
    with serving(detector, {"key": KEY, "log": str(log)}) as client:
        yield client


def lines(log, id_):
    return [line for line in map(json.loads, log.read_text().splitlines()) if line.get("request_id") == id_]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_the_key_nothing_is_told(locked, method, path):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": KEY + "x"}, {"authorization": f"Basic {KEY}"},
                    {"x-api-key": "\u00e9".encode()}):  # fmt: skip
        answer = locked.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "expected the API key" in answer.json()["error" if path.startswith("/v2") else "detail"]


def test_with_the_key_everything_is_and_health_needs_none(locked, held_out):
    for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        for method, path in GUARDED:
            assert locked.request(method, path, headers=headers).status_code not in (401, 403, 404)
    assert [locked.get(path).status_code for path in OPEN] == [200] * len(OPEN)


def test_every_route_is_guarded_but_those_that_are_open(locked):
    schema = locked.get("/openapi.json").json()
    guarded = {(method.upper(), path) for path, each in schema["paths"].items() for method, route in each.items()
               if route.get("security")}  # fmt: skip
    everything = {(method.upper(), path) for path, each in schema["paths"].items() for method in each}
    assert {path for _, path in everything - guarded} == {"/health", "/v2/health/live", "/v2/health/ready"}
    for method, path in everything:
        route = schema["paths"][path][method.lower()]
        assert route["summary"]
        assert route["description"]
        assert ("401" in route["responses"]) == ((method, path) in guarded)
        assert route["responses"]["200"]["content"]
    assert "HTTPValidationError" not in json.dumps(schema)
    references = set(json.dumps(schema).split('"#/components/schemas/')[1:])
    assert {each.partition('"')[0] for each in references} <= set(schema["components"]["schemas"])


def test_metrics_are_open_where_that_is_asked_for(detector):
    with serving(detector, {"key": KEY, "open_metrics": True}) as client:
        assert client.get("/metrics").status_code == 200
        assert client.get("/drift").status_code == 401


def test_a_key_that_no_request_can_carry_is_refused(detector, monkeypatch):
    for key in ("", "two words", "schl\u00fcssel", "a\n"):
        with pytest.raises(ValueError, match=f"{ENVIRONMENT}: expected printable ASCII"):
            create_app(detector, SHAPE, key=key)
        monkeypatch.setenv(ENVIRONMENT, key)
        with pytest.raises(ValueError, match=ENVIRONMENT):
            key_of_environment()
    monkeypatch.delenv(ENVIRONMENT)
    assert key_of_environment() is None


# ---- logs


def test_a_decision_is_logged_by_the_hash_of_its_image_and_the_id_of_its_request(locked, log, held_out):
    body = png(held_out[0])
    headers = {"x-api-key": KEY, "x-request-id": "trace-7"}
    answer = locked.post("/predict?explain=false", content=body, headers=headers)
    assert answer.headers["x-request-id"] == "trace-7"
    decision, access = lines(log, "trace-7")
    assert (decision["event"], access["event"]) == ("decision", "access")
    told = answer.json()
    for field in ("prediction", "class_name", "p_value", "accept", "detector", "score"):
        assert decision[field] == told[field]
    assert decision["sha256"] == hashlib.sha256(body).hexdigest()
    assert (access["method"], access["path"], access["status"]) == ("POST", "/predict", 200)
    assert 0 < decision["seconds"] <= access["seconds"]
    assert access["bytes"] == len(answer.content)
    assert set(decision) == {
        "time", "event", "request_id", "index", "sha256", "prediction", "class_name", "score", "p_value", "accept",
        "seconds", "detector",
    }  # fmt: skip


def test_images_of_a_request_are_logged_one_by_one_whatever_they_came_in(locked, log, held_out):
    raw = [(image.numpy()).tobytes() for image in held_out[:2]]
    message = {"inputs": [{"name": "input", "datatype": "UINT8", "shape": [2, *SHAPE], "data": held_out[:2].tolist()}]}
    locked.post("/v2/models/gmm_torch/infer", json=message, headers={"x-api-key": KEY, "x-request-id": "two"})
    decisions = [line for line in lines(log, "two") if line["event"] == "decision"]
    assert [(each["index"], each["sha256"]) for each in sorted(decisions, key=lambda each: each["index"])] == [
        (i, hashlib.sha256(each).hexdigest()) for i, each in enumerate(raw)
    ]


def test_refusals_are_logged_and_probes_are_not(locked, log):
    locked.get("/v2/health/ready", headers={"x-request-id": "probe"})
    locked.get("/no%1b[31m" + "x" * 500, headers={"x-request-id": "stranger"})
    locked.post("/predict", headers={"x-request-id": "nobody"})
    assert lines(log, "probe") == []
    assert [(each["status"], len(each["path"])) for each in lines(log, "stranger")] == [(404, 200)]
    assert [each["status"] for each in lines(log, "nobody")] == [401]
    assert KEY not in log.read_text()


@pytest.mark.parametrize("sent", [None, "", "a b", "x" * 129, 'a"b', "\u00e9", "a\n"])
def test_an_id_that_is_not_plain_is_replaced(sent):
    made = request_id(sent)
    assert made != sent
    assert len(made) == 32


def test_the_log_goes_on_in_a_new_file_where_the_old_one_is_moved_away(tmp_path):
    path = tmp_path / "log"
    log = RequestLog(str(path))
    log.write("first")
    path.rename(tmp_path / "log.1")
    log.write("second", value=1.5)
    log.close()
    assert json.loads((tmp_path / "log.1").read_text())["event"] == "first"
    assert json.loads(path.read_text())["value"] == 1.5


def test_standard_output_gets_lines_where_that_is_asked_for(capsys):
    RequestLog("-").write("told")
    RequestLog(None).write("untold")
    assert json.loads(capsys.readouterr().out)["event"] == "told"
