"""Clients that are slow, leave, or send too much, on real sockets."""

import socket
import time

import httpx2
import pytest

from tests.trainers.serve.conftest import listening, png
from trainers.serve import Limits, create_app

TIMEOUT = 0.3


@pytest.fixture(scope="module")
def served(detector):
    """The application and its port."""
    app = create_app(detector, (1, 8, 8), limits=Limits(max_bytes=100_000, timeout=TIMEOUT))
    with listening(app) as port:
        yield app, port


def begin(port: int, length: int, sent: bytes = b"") -> socket.socket:
    """A request that promises a body and sends a part of it."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + sent)
    return connection


def status(connection: socket.socket) -> int:
    return int(connection.recv(65536).split()[1])


def idle(app) -> None:
    while app.state.service.waiting:
        time.sleep(0.005)


def test_a_body_that_does_not_arrive_is_given_up(served):
    app, port = served
    with begin(port, 1000, b"a few bytes") as connection:
        assert status(connection) == 408
    idle(app)


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(served):
    app, port = served
    with begin(port, 100_001) as connection:
        assert status(connection) == 413
    idle(app)


def test_a_client_that_leaves_takes_no_place_for_long(served, held_out):
    app, port = served
    for _ in range(20):
        begin(port, 1000, b"a few bytes").close()
    idle(app)
    answer = httpx2.post(f"http://127.0.0.1:{port}/predict", content=png(held_out[0]))
    assert answer.status_code == 200
    counted = app.state.service.metrics.registry.get_sample_value
    assert counted("gmm_torch_requests_total", {"path": "/predict", "status": "400"}) == 20


def test_what_is_no_http_at_all_does_no_harm(served, held_out):
    _, port = served
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00" + bytes(200) + b"\r\n\r\n")
        assert status(connection) == 400
    assert httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
