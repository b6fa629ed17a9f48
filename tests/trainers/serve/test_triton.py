"""The service as `tritonclient`, which nobody here wrote, sees it."""

import gzip
import zlib

import httpx2
import numpy as np
import pytest

from tests.trainers.serve.conftest import NAMES, SHAPE, listening, png
from trainers.serve import Limits, create_app

triton = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException  # noqa: E402

KEY = "a-key-of-the-test"


@pytest.fixture(scope="module")
def port(detector):
    with listening(create_app(detector, SHAPE, NAMES, Limits(max_bytes=100_000, max_images=40), key=KEY)) as port:
        yield port


@pytest.fixture(scope="module")
def remote(port):
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as remote:
        yield remote


HEADERS = {"authorization": f"Bearer {KEY}"}


def tensor(array, datatype="FP32", name="input", binary=True):
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def infer(remote, *inputs, headers=HEADERS, **options):
    return remote.infer("gmm_torch", list(inputs), headers=dict(headers), **options)


@pytest.fixture(scope="module")
def images(held_out):
    return (held_out[:3].float() / 255).numpy()


def test_it_is_live_ready_and_described(remote):
    assert remote.is_server_live()
    assert remote.is_server_ready()
    assert remote.is_model_ready("gmm_torch", headers=HEADERS)
    assert not remote.is_model_ready("another", headers=HEADERS)
    assert remote.get_server_metadata(headers=HEADERS)["extensions"] == ["binary_tensor_data"]
    metadata = remote.get_model_metadata("gmm_torch", headers=HEADERS)
    assert metadata["inputs"][0]["datatype"] == "FP32"
    assert remote.get_model_metadata("gmm_torch", metadata["versions"][0], headers=HEADERS) == metadata


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_verdicts_in_binary_and_in_json(remote, detector, held_out, images, binary_in, binary_out):
    verdict = detector(held_out[:3] / 255)
    names = ("p_value", "accept", "class_name", "logits")
    wanted = None if binary_out is None else [triton.InferRequestedOutput(name, binary_out) for name in names]
    found = infer(remote, tensor(images, binary=binary_in), outputs=wanted, request_id="r-1")
    assert found.get_response()["id"] == "r-1"
    np.testing.assert_allclose(found.as_numpy("p_value"), verdict.p_value)
    assert found.as_numpy("accept").tolist() == verdict.accept.tolist()
    assert [bytes(np.char.encode(name)) if isinstance(name, str) else name
            for name in found.as_numpy("class_name")] == [NAMES[c].encode() for c in verdict.prediction]  # fmt: skip
    np.testing.assert_allclose(found.as_numpy("logits"), verdict.logits.detach(), rtol=1e-4, atol=1e-4)
    assert (found.as_numpy("score") is None) == (wanted is not None)


def test_pixels_of_8_bits_and_encoded_images(remote, held_out, images):
    expected = infer(remote, tensor(images)).as_numpy("score")
    files = np.array([png(image) for image in held_out[:3]], dtype=object)
    for sent in (tensor(held_out[:3].numpy(), "UINT8"), tensor(files, "BYTES"), tensor(files[:, None], "BYTES")):
        np.testing.assert_allclose(infer(remote, sent).as_numpy("score"), expected, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_answers(remote, held_out, images, algorithm):
    many = (held_out[:30].float() / 255).numpy()
    plain = infer(remote, tensor(many))
    packed = infer(
        remote, tensor(many), request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    np.testing.assert_allclose(packed.as_numpy("score"), plain.as_numpy("score"), rtol=1e-4)


def test_an_answer_is_compressed_for_who_accepts_it(port):
    answer = httpx2.get(f"http://127.0.0.1:{port}/openapi.json", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"


def test_mistakes_are_exceptions_with_a_status(remote, held_out, images):
    for sent, status, message in (
        (tensor(images[:, :, 1:]), "400", "expected shape"),
        (tensor(images.astype("f8"), "FP64"), "400", "expected datatype"),
        (tensor(images, name="image"), "400", "named 'input'"),
        (tensor(images * np.nan), "400", "NaN"),
        (tensor(np.array([b"no image"], dtype=object), "BYTES"), "415", "image 0"),
    ):
        with pytest.raises(InferenceServerException, match=message) as caught:
            infer(remote, sent)
        assert caught.value.status() == status
    with pytest.raises(InferenceServerException, match="expected one of"):
        infer(remote, tensor(images), outputs=[triton.InferRequestedOutput("no")])
    with pytest.raises(InferenceServerException, match="API key") as caught:
        infer(remote, tensor(images), headers={})
    assert caught.value.status() == "401"


@pytest.mark.parametrize(
    ("encoding", "content", "status", "message"),
    [
        ("gzip", gzip.compress(bytes(100_001)), 413, "100,000 bytes, unpacked"),
        ("deflate", zlib.compress(bytes(10**7)), 413, "100,000 bytes, unpacked"),
        ("gzip", gzip.compress(b"{}")[:-3], 400, "cut off"),
        ("gzip", gzip.compress(b"{}") * 2, 400, "behind its end"),
        ("gzip", b"plain", 400, "damaged"),
        ("br", b"plain", 415, "expected gzip or deflate; got 'br'"),
    ],
    # by name: gzip writes the time into its bytes, and every process must find the same tests
    ids=["gzip bomb", "deflate bomb", "cut off", "two at once", "damaged", "another encoding"],
)
@pytest.mark.parametrize("path", ["/predict", "/v2/models/gmm_torch/infer"])
def test_a_body_that_unpacks_to_too_much_or_to_nothing_is_refused(port, path, encoding, content, status, message):
    headers = HEADERS | {"content-encoding": encoding}
    answer = httpx2.post(f"http://127.0.0.1:{port}{path}", content=content, headers=headers)
    assert answer.status_code == status
    assert message in next(iter(answer.json().values()))
