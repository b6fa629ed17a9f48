"""The service answers as the detector would, bounds what it takes on, and never accepts what is not finite."""

import copy
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.conformal.conditional import ConditionalCalibration
from gmm_torch.conformal.mondrian import MondrianCalibration
from gmm_torch.detector import Calibration
from gmm_torch.errors import NotFittedError
from gmm_torch.scores import make_score
from tests.trainers.serve.conftest import (
    BLACK,
    NAMES,
    SHAPE,
    WHITE,
    begun,
    blocked,
    counted,
    digit_images,
    png,
    serving,
)
from tests.trainers.serve.test_images import png_header
from trainers.modules.evaluation_module import EvaluationModule
from trainers.records.verdict_file import VerdictFile, read_csv
from trainers.serve import Limits, create_app, docs_page
from trainers.serve.histogram import histogram
from trainers.serve.page import PAGE, content_security_policy
from trainers.serve.predictor import Predictor, Question
from trainers.serve.served import Served, version_of


def test_an_image_of_another_size_than_the_calibration_images_is_told_once(detector, caplog):
    known = copy.deepcopy(detector)
    known.preprocessing = {"file_size": "8 x 8"}
    with serving(known) as client:
        for picture in (digit_images()[0][0], torch.zeros(1, 8, 9, dtype=torch.uint8), torch.ones(1, 9, 9).byte()):
            assert client.post("/predict", content=png(picture)).status_code == 200
    (said,) = [each for each in caplog.messages if each.startswith("image size: ")]
    assert "expected 8 x 8 pixels, as of the calibration images; got 8 x 9 (" in said


def test_the_body_and_a_form_give_the_detectors_verdict(client, detector, held_out):
    image = held_out[0]
    verdict = detector(image[None] / 255)
    plain = client.post("/predict", content=png(image)).json()
    form = client.post("/predict", files={"photo": ("x.png", png(image), "image/png")}).json()
    assert plain == form
    assert plain["prediction"] == int(verdict.prediction)
    assert plain["class_name"] == NAMES[plain["prediction"]]
    assert plain["p_value"] == pytest.approx(float(verdict.p_value))
    assert plain["score"] == pytest.approx(verdict.score.item(), rel=1e-5)
    assert plain["probability"] == pytest.approx(verdict.logits.softmax(-1).max().item(), rel=1e-5)
    assert plain["accept"] == bool(verdict.accept)
    assert plain["verdict"] == ("accepted" if plain["accept"] else "refused")


def test_the_explanation_is_the_detectors_and_can_be_left_out(client, detector, held_out):
    image = held_out[0]
    expected = detector.explain(image[None] / 255, NAMES)[0]
    found = client.post("/predict", content=png(image)).json()["explanation"]
    assert found["text"] == str(expected)
    assert found["parts"] == pytest.approx(expected.part_p_values)
    assert found["leading"] == expected.leading
    component, facts = found["mixtures"][found["leading"]], expected.mixtures[expected.leading]
    assert component["component"] == facts.component
    parts = {each["name"]: each["contribution"] for each in component["features"]}  # of the distance, in its unit
    assert parts == pytest.approx(dict(facts.features))
    assert component["predictions"][0]["share"] == pytest.approx(facts.predictions[0].share)  # of one
    assert component["features"][0].keys() == {"name", "contribution"}
    assert client.post("/predict?explain=false", content=png(image)).json()["explanation"] is None


def test_noise_is_refused_and_most_digits_are_not(client, held_out):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 255, (10, *SHAPE), dtype=torch.uint8, generator=generator)
    answers = [client.post("/predict?explain=false", content=png(image)).json() for image in [*held_out[:40], *noise]]
    accepted = [answer["accept"] for answer in answers]
    assert sum(accepted[:40]) >= 30
    assert sum(accepted[40:]) <= 1
    assert {answer["reason"] for answer in answers} == {"typical", "not typical"}


def test_concurrent_requests_share_batches_and_get_their_own_answers(detector, held_out):
    images = held_out[:60]
    alone = detector(images / 255)
    with serving(detector, max_batch=16, max_wait=0.2) as client, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda i: client.post("/predict?explain=false", content=png(i)).json(), images))
        batches = counted(client)["gmm_torch_batch_images_count",]
    assert [answer["prediction"] for answer in answers] == alone.prediction.tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(alone.score.tolist(), rel=1e-4, abs=1e-4)
    assert batches < 30


def test_an_image_whose_outputs_are_not_finite_is_refused_whatever_the_calibration_says(detector, held_out):
    detector = copy.deepcopy(detector)
    detector.calibration.p_value = lambda score, *_, **__: torch.ones_like(score)
    detector.calibration.accepts = lambda score, *_, **__: torch.ones_like(score, dtype=torch.bool)
    with serving(detector, max_batch=2, max_wait=0.5) as client, ThreadPoolExecutor(2) as pool:
        found, beside = pool.map(lambda image: client.post("/predict", content=png(image)).json(), (BLACK, held_out[0]))
        assert counted(client)["gmm_torch_not_finite_total",] == 1
    assert not found["accept"]
    assert found["reason"] == "outputs not finite"
    assert found["p_value"] is None
    assert found["score"] is None
    assert beside["accept"]
    assert beside["p_value"] == 1


@pytest.mark.parametrize("n", [19, 199])
def test_python_service_and_csv_decide_alike(n, detector, tmp_path):
    images = digit_images()[0]
    x = images / 255
    few = FailureDetector(detector.classifier, score=make_score("max_softmax")).fit([x[900:1200]])
    few.calibrate([x[1200 : 1200 + n]])
    verdict, records = few(x[1200:]), EvaluationModule(few).predict_step(x[1200:], 0)
    answers = [each.record for each in Predictor(few)([Question(image, explain=False) for image in images[1200:]])]
    names = [str(i) for i in range(len(answers))]
    with VerdictFile(tmp_path / "v.csv", "job") as file:
        file.keep(names, len(names))
        file.append([record._replace(path=name) for record, name in zip(records.records(names), names, strict=True)])
        file.finish(len(names))
    rows = list(read_csv(tmp_path / "v.csv"))
    assert bool((verdict.p_value == few.alpha).any())  # where rounding would decide
    for said in (answers, rows):
        assert [each.accept for each in said] == verdict.accept.tolist()
        assert [each.p_value > few.alpha for each in said] == verdict.accept.tolist()


@pytest.mark.parametrize("value", [1e30, float("inf"), float("-inf"), float("nan")])
def test_features_beyond_all_bounds_are_never_accepted(detector, held_out, value):
    detector = copy.deepcopy(detector)
    weight = detector.classifier.layers[1].weight
    nn.init.constant_(weight, value)
    detector._calibrated_in(detector.precision, detector.format)  # as if it had been calibrated so
    with serving(detector) as client:
        answer = client.post("/predict", content=png(held_out[0])).json()
    assert answer["verdict"] == "refused"


def test_an_image_on_which_the_model_fails_does_not_fail_its_neighbours(detector, held_out):
    images = [WHITE if i == 2 else held_out[i] for i in range(5)]
    with serving(detector, max_batch=5, max_wait=0.5) as client, ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda image: client.post("/predict", content=png(image)), images))
        assert client.get("/health").json()["status"] == "ready"
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200, 200]
    assert "the model failed on this image" in answers[2].json()["detail"]


# ---- limits


def test_too_many_bytes_are_refused_declared_or_not(client):
    for content in (bytes(20_001), iter([bytes(15_000), bytes(15_000)])):
        answer = client.post("/predict", content=content)
        assert answer.status_code == 413
        assert "at most 20,000 bytes" in answer.json()["detail"]
    assert client.post("/predict", files={"image": bytes(20_001)}).status_code == 413


def test_too_many_pixels_are_refused(client):
    answer = client.post("/predict", content=png_header(101, 100))
    assert answer.status_code == 413
    assert "101 x 100" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b""}, 422, "got no bytes"),
        ({"content": b"not an image"}, 415, "bytes of none of these"),
        ({"content": png_header(8, 8)}, 422, "damaged"),
        ({"files": [("a", b"x"), ("b", b"y")]}, 400, "Too many files"),
        ({"data": {"a": "x"}, "files": {}}, 415, "bytes of none of these"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        (
            {"content": b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
             "headers": {"content-type": "multipart/form-data; boundary=b"}},
            400, "one file",
        ),
        ({"content": b"x", "params": {"explain": "perhaps"}}, 422, "explain"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_was_expected(client, request_, status, message):
    answer = client.post("/predict", **request_)
    assert answer.status_code == status
    assert message in answer.json()["detail"]


def test_more_requests_than_allowed_are_told_to_come_back(detector, held_out):
    body = png(held_out[0])
    with serving(detector, max_waiting=2, max_batch=1) as client, ThreadPoolExecutor(2) as pool:
        with blocked(client) as entered:
            waiting = [pool.submit(client.post, "/predict", content=body) for _ in range(2)]
            entered.wait(10)
            while client.get("/health").json()["waiting"] < 2:
                pass
            refused = client.post("/predict", content=body)
        assert [answer.result().status_code for answer in waiting] == [200, 200]
        assert client.post("/predict", content=body).status_code == 200
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1


def test_a_verdict_that_takes_too_long_is_given_up_and_health_tells(detector, held_out):
    with serving(detector, timeout=0.1) as client:
        with blocked(client):
            answer = client.post("/predict", content=png(held_out[0]))
            while (health := client.get("/health")).status_code == 200:
                pass
        while client.get("/health").status_code != 200:
            pass
    assert answer.status_code == 504
    assert health.status_code == 503
    assert health.json()["status"] == "stalled"


def test_it_takes_no_image_before_the_first_batch(detector, held_out):
    app = create_app(detector, SHAPE, NAMES)
    gate = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Served, "warm", lambda *_: gate.wait(10))
        with TestClient(app) as client:
            early, health = client.post("/predict", content=png(held_out[0])), client.get("/health")
            gate.set()
            begun(client)
            assert client.get("/health").status_code == 200
            assert client.post("/predict", content=png(held_out[0])).status_code == 200
    assert early.status_code == 503
    assert "retry-after" in early.headers
    assert health.status_code == 503
    assert health.json()["status"] == "starting"


def test_a_model_that_fails_on_its_first_batch_is_never_ready(detector):
    def fail(*_):
        raise RuntimeError("out of memory")

    app = create_app(detector, SHAPE, NAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Served, "warm", fail)
        with TestClient(app) as client:
            begun(client)
            health = client.get("/health")
    assert health.status_code == 503
    assert health.json()["status"] == "failed"


@pytest.mark.parametrize(
    "name", ["max_bytes", "max_pixels", "max_images", "max_waiting", "max_batch", "n_decoders", "timeout"]
)
def test_limits_that_let_nothing_through_are_refused(name):
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})


def test_no_limit_lets_more_pixels_through_than_are_ever_decoded():
    with pytest.raises(ValueError, match="max_pixels: expected at most 134,217,728"):
        Limits(max_pixels=2**27 + 1)


# ---- starting


def test_a_detector_without_calibration_is_refused_at_once(detector):
    with pytest.raises(NotFittedError):
        create_app(FailureDetector(detector.classifier), SHAPE)
    with pytest.raises(ValueError, match="expected one that takes images of shape"):
        create_app(detector, (1, 9, 9))
    with pytest.raises(ValueError, match="expected 10, one a class; got 3"):
        create_app(detector, SHAPE, ["a", "b", "c"])


def test_a_detector_that_would_accept_everything_is_refused(detector):
    detector = copy.deepcopy(detector)
    detector.calibration = Calibration()
    detector.calibration.scores = torch.arange(18.0)
    with pytest.raises(ValueError, match=r"alpha=0\.05 needs at least 19 inputs; got 18"):
        create_app(detector, SHAPE)


# ---- what is told about the service


def test_health_says_what_the_service_is(client, detector):
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json() == {
        "status": "ready", "detector": version_of(detector), "alpha": 0.05,
        "n_calibration": len(detector.calibration), "weighted": False, "n_classes": 10, "image_shape": [1, 8, 8],
        "waiting": 0,
    }  # fmt: skip


def test_of_a_weighted_detector_it_is_told_that_it_is_weighted(weighted):
    with serving(weighted) as client:
        assert client.get("/health").json()["weighted"]
        found = client.get("/calibration", params={"prediction": 3}).json()
        assert (found["weighted"], found["counted"]) == (True, False)
        assert "like the calibration images" not in client.get("/metrics").text.split("drift_log10_capital")[0]


def test_the_histogram_holds_all_scores_and_places_the_threshold(client, detector):
    found = client.get("/calibration", params={"prediction": 3}).json()
    scores = detector.calibration.scores
    assert sum(found["counts"]) == found["n"] == len(scores)
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert found["threshold"] == pytest.approx(float(detector.calibration.threshold(0.05)))
    middle = found["edges"][20]
    assert sum(found["counts"][:20]) == int((scores < middle).sum())
    assert found["counted"]
    assert not found["weighted"]
    assert client.get("/calibration", params={"prediction": 10}).status_code == 422


@pytest.mark.parametrize(
    ("calibration", "by_count"),
    [(Calibration(), True), (MondrianCalibration(10), True), (ConditionalCalibration(), False)],
)
def test_outliers_do_not_squeeze_the_histogram_and_a_count_is_told_where_p_values_count(
    detector, calibration, by_count
):
    scores = torch.cat([torch.linspace(0, 1, 385), torch.full((15,), -1e6)])
    detector = copy.deepcopy(detector)
    detector.calibration = calibration.fit(scores, 0.1, predictions=torch.zeros(400).long())
    detector.alpha = 0.1
    found = histogram(detector, 0)
    assert found.counted == by_count
    assert found.edges[-1] - found.edges[0] <= 4
    assert found.counts[0] >= 15
    assert sum(found.counts) == 400


def test_by_class_the_histogram_is_that_of_the_class(detector):
    scores = torch.arange(400).float()
    calibration = MondrianCalibration(10).fit(scores, 0.05, predictions=torch.arange(400) % 10)
    detector = copy.deepcopy(detector)
    detector.calibration = calibration
    with serving(detector) as client:
        found = client.get("/calibration", params={"prediction": 3}).json()
    assert found["n"] == 40
    assert found["lowest"] == 3
    assert found["threshold"] == float(calibration.threshold(0.05)[3])


def test_metrics_count_requests_and_verdicts(detector, held_out):
    with serving(detector) as client:
        answers = [client.post("/predict", content=png(image)).json() for image in held_out[:20]]
        client.post("/predict", content=b"nonsense")
        client.get("/made/up")
        found = counted(client)
    refused = sum(not answer["accept"] for answer in answers)
    assert found["gmm_torch_verdicts_total", "refused"] == refused
    assert found["gmm_torch_verdicts_total", "accepted"] == 20 - refused
    assert found["gmm_torch_requests_total", "/predict", "200"] == 20
    assert found["gmm_torch_requests_total", "/predict", "415"] == 1
    assert found["gmm_torch_requests_total", "other", "404"] == 1
    assert found["gmm_torch_request_seconds_count", "/predict"] == 21
    assert found["gmm_torch_p_value_count",] == 20
    assert found["gmm_torch_p_value_bucket", "0.1"] == sum(answer["p_value"] <= 0.1 for answer in answers)
    assert found["gmm_torch_alpha",] == 0.05
    assert found["process_resident_memory_bytes",] > 1e7


def test_the_schema_declares_every_answer(client):
    schema = client.get("/openapi.json").json()
    predict = schema["paths"]["/predict"]["post"]
    kinds = {f"image/{kind}" for kind in ("bmp", "jpeg", "png", "tiff", "webp", "x-portable-pixmap")}
    assert set(predict["requestBody"]["content"]) == kinds | {"application/octet-stream", "multipart/form-data"}
    assert set(predict["responses"]) == {"200", "400", "401", "408", "413", "415", "422", "500", "503", "504"}
    assert predict["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    answer = schema["components"]["schemas"]["Answer"]["properties"]
    assert {"prediction", "p_value", "accept", "verdict", "explanation"} <= set(answer)


# ---- the page


def test_the_documentation_loads_nothing_from_elsewhere(client, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(docs_page, "find_spec", lambda _: None)
        assert client.get("/docs").status_code == 501
        assert "pip install -e '.[serve]'" in client.get("/docs").json()["detail"]
    assert client.get("/docs/other.js").status_code == 404
    pytest.importorskip("fastapi_offline")
    answer = client.get("/docs")
    assert not re.search(r"(?:src|href)=\"(?!/docs/)", answer.text)
    assert "unsafe" not in answer.headers["content-security-policy"].partition("style-src")[0]
    for name, kind in docs_page.FILES.items():
        found = client.get(f"/docs/{name}")
        assert found.status_code == 200
        assert found.headers["content-type"].startswith(kind)
        assert f"/docs/{name}" in answer.text


def test_the_page_runs_nothing_but_itself(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert answer.text == PAGE
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert content_security_policy(PAGE.replace("predict(", "steal(", 1)) != policy
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+", PAGE.replace("// the p-value", "")))
    assert addresses == {"http://www.w3.org"}  # a name space, never fetched
    assert not re.search(r"\son\w+=|\sstyle=|<link(?! rel=\"icon\" href=\"data:)|<script \w|@import|url\(", PAGE)


def test_every_answer_tells_browsers_to_be_careful(client):
    for answer in (client.get("/"), client.get("/health"), client.post("/predict", content=b"x"), client.get("/no")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


# ---- strangers' bytes

TYPES = ["", "image/png", "application/json", "multipart/form-data", "multipart/form-data; boundary=b", "text/\u00fc"]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda b: b"--b\r\n" + b + b"\r\n\r\nx\r\n--b--\r\n")
    | st.binary(max_size=60).map(lambda b: b"\x89PNG\r\n\x1a\n" + b)
    | st.binary(max_size=60).map(lambda b: b"\xff\xd8\xff" + b),
    kind=st.sampled_from(TYPES),
)
def test_whatever_is_sent_is_answered_with_a_verdict_or_a_4xx(client, body, kind):
    answer = client.post("/predict", content=body, headers={"content-type": kind.encode("latin-1")})
    assert answer.status_code in {200, 400, 413, 415, 422}, answer.text
    assert isinstance(answer.json().get("detail", ""), str)
