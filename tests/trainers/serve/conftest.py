import copy
import io
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_digits
from torch import nn

from gmm_torch import FailureDetector
from gmm_torch.conformal.weighted import WeightedCalibration
from trainers.serve import Limits, create_app

SHAPE = (1, 8, 8)
NAMES = [f"digit {i}" for i in range(10)]
BLACK = torch.zeros(SHAPE, dtype=torch.uint8)  # gives NaN
WHITE = torch.full(SHAPE, 255, dtype=torch.uint8)  # makes the classifier fail


def digit_images() -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 1, 8, 8) uint8 and labels (N,), shuffled: as they come, writers change along the way, which is drift."""
    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    images = (torch.from_numpy(found.images)[:, None] * 255 / 16).round().byte()
    return images[order], torch.from_numpy(found.target).long()[order]


def png(image: torch.Tensor) -> bytes:
    """A gray (1, H, W) uint8 image as the bytes of a file."""
    stream = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def listening(app):
    """The application on a real socket; yields its port once it takes images."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not (server.started and app.state.service.started):
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@contextmanager
def serving(detector, app=(), **limits):
    """A client of a service that is ready; `app` are options of `create_app`."""
    with TestClient(create_app(detector, SHAPE, NAMES, Limits(**limits), **dict(app))) as client:
        begun(client)
        yield client


def begun(client) -> None:
    """Wait for the first batch."""
    while client.get("/health").json()["status"] == "starting":
        time.sleep(0.005)


def counted(client) -> dict[tuple[str, ...], float]:
    """Samples of /metrics: (name, label values...) -> value."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


@contextmanager
def blocked(client):
    """The model takes no batch until the block ends."""
    served, gate = client.app.state.service.served, threading.Event()
    predictor, entered = served.predictor, threading.Event()

    def slow(questions):
        entered.set()
        gate.wait(10)
        return predictor(questions)

    served.predictor = slow
    try:
        yield entered
    finally:
        gate.set()
        served.predictor = predictor


class Fragile(nn.Module):
    """A classifier that gives NaN for a black image, and fails on a white one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        brightness = x.mean((1, 2, 3))
        if bool((brightness > 0.99).any()):
            raise RuntimeError("no such image, please")
        logits = self.layers(x)
        return torch.where((brightness < 0.01)[:, None], torch.nan, logits)


@pytest.fixture(scope="session")
def detector():
    images, labels = digit_images()
    x = images.float() / 255
    torch.manual_seed(0)
    classifier = Fragile()
    optimizer = torch.optim.Adam(classifier.parameters(), 0.01)
    for _ in range(80):
        loss = nn.functional.cross_entropy(classifier.layers(x[:900]), labels[:900])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    detector = FailureDetector(classifier, n_components=3)
    return detector.fit(x[900:1200].split(100)).calibrate(x[1200:1500].split(100))


@pytest.fixture(scope="session")
def weighted(detector):
    """The same with a calibration whose weights are for digits of a weaker contrast."""
    x = digit_images()[0].float() / 255
    weighted = copy.deepcopy(detector)
    weighted.calibration = WeightedCalibration()
    return weighted.adapt((0.9 * x[900:1200]).split(50), x[1200:1350].split(50)).calibrate(x[1350:1500].split(50))


@pytest.fixture(scope="session")
def held_out():
    """Digits that detector and classifier have not seen."""
    return digit_images()[0][1500:]


@pytest.fixture(scope="session")
def client(detector):
    with serving(detector, max_bytes=20_000, max_pixels=10_000, max_images=8) as client:
        yield client
