"""The Open Inference Protocol: what is sent in it is judged as `/predict` judges it, or refused in its words."""

import base64
import copy
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.trainers.serve.conftest import BLACK, NAMES, SHAPE, WHITE, blocked, png, serving
from tests.trainers.serve.test_images import png_header
from trainers.serve.inference.response import LOWEST, OUTPUTS

URL = "/v2/models/gmm_torch/infer"
DTYPES = {"INT64": "<i8", "FP32": "<f4", "FP64": "<f8", "BOOL": "?"}


def asked(data, datatype="UINT8", shape=None, **others):
    """A request in JSON for images."""
    shape = list(data.shape) if shape is None else shape
    data = data.tolist() if isinstance(data, torch.Tensor) else data
    return {"inputs": [{"name": "input", "datatype": datatype, "shape": shape, "data": data}], **others}


def binary(raw, datatype, shape, **others):
    """A request whose tensor follows the JSON: content and headers."""
    sent = {"name": "input", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [sent], **others}).encode()
    return {"content": head + raw, "headers": {"inference-header-content-length": str(len(head))}}


def values(answer):
    """Output -> array, of an answer in JSON, in binary, or in both."""
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    found, at = {}, length
    for output in json.loads(answer.content[:length])["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        dtype = DTYPES.get(output["datatype"])
        if size is None:
            array = np.array(output["data"], dtype)
        elif dtype:
            array = np.frombuffer(answer.content[at : at + size], dtype)
        else:
            array, end = [], at + size
            while at < end:
                (n,) = struct.unpack_from("<I", answer.content, at)
                array.append(answer.content[at + 4 : at + 4 + n].decode())
                at += 4 + n
            array, size = np.array(array), 0
        at += size or 0
        found[output["name"]] = array.reshape(output["shape"])
    assert at == len(answer.content)
    return found


def test_every_way_of_sending_images_gives_the_detectors_verdicts(client, detector, held_out):
    images = held_out[:3]
    unit = (images.float() / 255).numpy()
    files = [png(image) for image in images]
    verdict = detector(images / 255)
    ways = [
        client.post(URL, json=asked(images)),
        client.post(URL, json=asked(images.flatten(), shape=[3, *SHAPE])),
        client.post(URL, json=asked(images.float() / 255, "FP32")),
        client.post(URL, json=asked([base64.b64encode(file).decode() for file in files], "BYTES", [3])),
        client.post(URL, json=asked([[base64.b64encode(file).decode()] for file in files], "BYTES", [3, 1])),
        client.post(URL, **binary(images.numpy().tobytes(), "UINT8", [3, *SHAPE])),
        client.post(URL, **binary(unit.tobytes(), "FP32", [3, *SHAPE])),
        client.post(URL, **binary(b"".join(struct.pack("<I", len(f)) + f for f in files), "BYTES", [3])),
        client.post(URL, **binary(unit.tobytes(), "FP32", [3, *SHAPE], parameters={"binary_data_output": True})),
    ]
    for answer in ways:
        assert answer.status_code == 200, answer.text
        found = values(answer)
        assert set(found) == set(OUTPUTS)
        assert found["prediction"].tolist() == verdict.prediction.tolist()
        assert found["class_name"].tolist() == [NAMES[c] for c in verdict.prediction.tolist()]
        assert found["accept"].tolist() == verdict.accept.tolist()
        assert found["finite"].all()
        np.testing.assert_allclose(found["logits"], verdict.logits.detach(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["probability"], verdict.logits.detach().softmax(-1).amax(-1), rtol=1e-4)
        np.testing.assert_allclose(found["score"], verdict.score.detach(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["p_value"], verdict.p_value)
    assert ways[-1].headers["content-type"] == "application/octet-stream"
    assert ways[0].headers["content-type"] == "application/json"


def test_outputs_come_as_asked_and_the_id_comes_back(client, held_out):
    outputs = [{"name": "accept"}, {"name": "p_value", "parameters": {"binary_data": True}}]
    answer = client.post(URL, json=asked(held_out[:2], id="mine", outputs=outputs))
    head = json.loads(answer.content[: int(answer.headers["inference-header-content-length"])])
    assert (head["id"], head["model_name"], head["parameters"]) == ("mine", "gmm_torch", {"alpha": 0.05})
    assert [(each["name"], each["datatype"], "data" in each) for each in head["outputs"]] == [
        ("accept", "BOOL", True), ("p_value", "FP64", False),
    ]  # fmt: skip
    assert list(values(answer)) == ["accept", "p_value"]
    version = head["model_version"]
    assert client.get("/health").json()["detector"] == version
    assert client.post(f"/v2/models/gmm_torch/versions/{version}/infer", json=asked(held_out[:1])).status_code == 200
    assert "id" not in client.post(URL, json=asked(held_out[:1])).json()


def test_metadata_name_what_infer_takes_and_gives(client, held_out):
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    metadata = client.get("/v2/models/gmm_torch").json()
    (version,) = metadata["versions"]
    assert client.get(f"/v2/models/gmm_torch/versions/{version}").json() == metadata
    assert metadata["inputs"][0]["shape"] == [-1, *SHAPE]
    answer = client.post(URL, json=asked(held_out[:2])).json()
    told = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["outputs"]}
    for output in answer["outputs"]:
        datatype, shape = told[output["name"]]
        assert output["datatype"] == datatype
        assert all(a in (-1, b) for a, b in zip(shape, output["shape"], strict=True))


def test_live_and_ready_differ(detector):
    with serving(detector) as client:
        service = client.app.state.service
        assert client.get("/v2/models/gmm_torch/ready").json() == {"name": "gmm_torch", "ready": True}
        service.draining = True
        assert client.get("/v2/health/live").json() == {"live": True}
        for path in ("/v2/health/ready", "/v2/models/gmm_torch/ready", "/health"):
            assert client.get(path).status_code == 503
        assert client.get("/health").json()["status"] == "draining"
        assert client.post(URL, json=asked(BLACK[None])).status_code == 200


def test_numbers_that_are_not_finite_are_refused_and_none_comes_out(client, held_out):
    images = torch.stack([held_out[0], BLACK])
    for parameters in ({}, {"binary_data_output": True}):
        found = values(client.post(URL, json=asked(images, parameters=parameters)))
        assert all(np.isfinite(each).all() for each in found.values() if each.dtype.kind == "f")
        assert found["finite"].tolist() == [True, False]
        assert not found["accept"][1]
        assert (found["p_value"][1], found["score"][1]) == (0, LOWEST)
    for value in ("NaN", "Infinity", "1e999", "1e39"):
        sent = json.dumps(asked([0.5] * 63, "FP32", [1, *SHAPE])).replace("[0.5", f"[{value}, 0.5")
        answer = client.post(URL, content=sent)
        assert (answer.status_code, "finite" in answer.json()["error"]) == (400, True)
    raw = np.full((1, *SHAPE), np.nan, "<f4").tobytes()
    assert "NaN" in client.post(URL, **binary(raw, "FP32", [1, *SHAPE])).json()["error"]


def test_logits_that_overflow_come_out_as_numbers(detector, held_out):
    detector = copy.deepcopy(detector)
    nn.init.constant_(detector.classifier.layers[1].weight, 1e38)
    detector._calibrated_in(detector.precision, detector.format)  # as if it had been calibrated so
    with serving(detector) as client:
        found = values(client.post(URL, json=asked(held_out[:2])))
    assert not found["accept"].any()
    assert all(np.isfinite(each).all() for each in found.values() if each.dtype.kind == "f")


X = torch.zeros(1, *SHAPE, dtype=torch.uint8) + 7
RAW = X.numpy().tobytes()


@pytest.mark.parametrize(
    ("message", "status", "expected"),
    [
        ({}, 400, "inputs"),
        ({"inputs": []}, 400, "expected one, named 'input'; got none"),
        (asked(X) | {"inputs": asked(X)["inputs"] * 2}, 400, "got 'input', 'input'"),
        (asked(X, "FP64"), 400, "datatype FP32, UINT8 or BYTES; got 'FP64'"),
        (asked(X[:, :, 1:]), 400, "shape [N, 1, 8, 8]"),
        (asked([0] * 64, shape=[1, 64]), 400, "shape [N, 1, 8, 8]"),
        (asked([0] * 63, shape=[1, *SHAPE]), 400, "flat, or nested as [1, 1, 8, 8]"),
        (asked([], shape=[0, *SHAPE]), 400, "1 to 8 images; got 0"),
        (asked(X.expand(9, -1, -1, -1)), 400, "1 to 8 images; got 9"),
        (asked(["7"] * 64, shape=[1, *SHAPE]), 400, "expected numbers"),
        (asked([True] * 64, shape=[1, *SHAPE]), 400, "expected numbers"),
        (asked([None] * 64, "FP32", [1, *SHAPE]), 400, "expected numbers"),
        (asked([256] * 64, shape=[1, *SHAPE]), 400, "0 to 255"),
        (asked([0.5] * 64, shape=[1, *SHAPE]), 400, "0 to 255"),
        (asked([10**400] + [0] * 63, shape=[1, *SHAPE]), 400, "64 bits"),
        (asked([[1, 2], [3]], shape=[1, *SHAPE]), 400, "numbers"),
        (asked(X, "FP32"), 400, "from 0, black, to 1, white; got 7 to 7"),
        (asked([-0.1] * 64, "FP32", [1, *SHAPE]), 400, "got -0.1"),
        (asked(["?"], "BYTES", [1]), 400, "base64"),
        (asked(["aGVsbG8="], "BYTES", [1]), 415, "image 0: expected an image"),
        (asked([base64.b64encode(png_header(101, 100)).decode()], "BYTES", [1]), 413, "101 x 100"),
        (asked(["aGVsbG8="], "BYTES", [2]), 400, "2 elements, as its shape says; got 1"),
        (asked(["aGVsbG8="], "BYTES", [1, 2]), 400, "shape [N] or [N, 1]"),
        (asked(X, outputs=[{"name": "p"}]), 400, "output 'p': expected one of prediction"),
        (asked(X, outputs=[{"name": "score"}] * 2), 400, "each name once"),
        (asked(X, outputs=[{"name": "logits", "parameters": {"classification": 2}}]), 400, "classification"),
        (asked(X, parameters={"binary_data_output": "yes"}), 400, "true or false"),
        ({"inputs": [{"name": "input", "datatype": "UINT8", "shape": [1, *SHAPE]}]}, 400, "either data or a binary"),
        ({"inputs": [{"name": "input", "datatype": "UINT8", "shape": [1, *SHAPE],
                      "parameters": {"shared_memory_region": "a"}}]}, 400, "shared memory"),
        (asked(X, id=3), 400, "id"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_in_the_protocols_words(client, message, status, expected):
    answer = client.post(URL, content=json.dumps(message))
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert expected in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_", "status", "expected"),
    [
        (binary(RAW[1:], "UINT8", [1, *SHAPE]), 400, "expected 64 bytes"),
        (binary(RAW, "UINT8", [1, *SHAPE]) | {"headers": {"inference-header-content-length": "99999"}}, 400, "header"),
        (binary(RAW, "UINT8", [1, *SHAPE]) | {"headers": {"inference-header-content-length": "-1"}}, 400, "number"),
        (binary(b"\xff\0\0\0abc", "BYTES", [1]), 400, "cut off"),
        (binary(b"\xff\0", "BYTES", [1]), 400, "cut off"),
        ({"content": b"{"}, 400, "JSON"),
        ({"content": b"[" * 100_000}, 413, "bytes"),
        ({"content": b"[" * 10_000}, 400, "JSON"),
        ({"content": b""}, 400, "JSON"),
        ({"content": b"\xff\xfe"}, 400, "JSON"),
    ],
)
def test_a_damaged_body_is_told(client, request_, status, expected):
    answer = client.post(URL, **request_)
    assert answer.status_code == status, answer.text
    assert expected in answer.json()["error"]


def test_another_model_version_route_or_method_is_told_in_the_protocols_words(client):
    for path in ("/v2/models/other", "/v2/models/gmm_torch/versions/1", "/v2/models/other/ready", "/v2/made/up"):
        assert client.get(path).status_code == 404
        assert list(client.get(path).json()) == ["error"]
    assert (
        client.post("/v2/models/other/infer", json=asked(X)).json()["error"].startswith("model: expected 'gmm_torch'")
    )
    assert client.get(URL).status_code == 405
    assert list(client.get(URL).json()) == ["error"]


def test_images_of_a_request_are_counted_against_the_places_and_given_back(detector, held_out):
    with serving(detector, max_waiting=4, max_batch=1) as client, serving(detector) as other:
        with blocked(client):
            service = client.app.state.service
            service.waiting = 2  # as if two were in work
            refused = client.post(URL, json=asked(held_out[:3]))
            service.waiting = 0
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert client.post(URL, json=asked(held_out[:4])).status_code == 200
        assert "1 to 4 images" in client.post(URL, json=asked(held_out[:5])).json()["error"]
        failed = other.post(URL, json=asked(torch.stack([held_out[0], WHITE])))
        assert (failed.status_code, "image 1: the model failed" in failed.json()["error"]) == (500, True)
        assert service.waiting == other.app.state.service.waiting == 0


# ---- strangers' bytes

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = {
    "name": st.just("input") | ANY,
    "datatype": st.sampled_from(["FP32", "UINT8", "BYTES", "FP64"]) | ANY,
    "shape": st.sampled_from([[1, *SHAPE], [1], [1, 1], [2**31, *SHAPE], [-1]]) | ANY,
    "data": st.sampled_from([X.flatten().tolist(), [0.5] * 64, [float("nan")] * 64, ["aGVsbG8="], [[]] * 9]) | ANY,
    "parameters": st.just({})
    | st.fixed_dictionaries({"binary_data_size": st.sampled_from([0, 3, 64, -1, True]) | ANY}),
}
MESSAGES = st.fixed_dictionaries(
    {"inputs": st.lists(st.fixed_dictionaries({}, optional=FIELDS), max_size=2) | ANY},
    optional={"outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from([*OUTPUTS, "x"])}), max_size=3) | ANY,
              "parameters": st.just({"binary_data_output": True}) | ANY, "id": st.text(max_size=5) | ANY},
)  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    message=MESSAGES | ANY, tail=st.binary(max_size=70), cut=st.integers(0, 3), length=st.none() | st.integers(0, 400)
)
def test_whatever_is_sent_is_answered_with_verdicts_or_a_4xx_and_never_with_nan(client, message, tail, cut, length):
    head = json.dumps(message).encode()
    headers = {} if length is None else {"inference-header-content-length": str(len(head) if length > 200 else length)}
    answer = client.post(URL, content=head[: len(head) - cut] + tail, headers=headers)
    assert answer.status_code in {200, 400, 413, 415, 422}, answer.text
    if answer.status_code == 200:
        assert all(np.isfinite(each).all() for each in values(answer).values() if each.dtype.kind == "f")
    else:
        assert isinstance(answer.json()["error"], str)
