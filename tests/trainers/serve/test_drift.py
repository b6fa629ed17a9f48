"""Drift in windows of counts and of time; what is kept is bounded."""

import pytest
import torch

from tests.trainers.serve.conftest import counted, png, serving
from trainers.serve import drift
from trainers.serve.drift import Drift, seconds_of

CALIBRATION = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOW = torch.full((16,), -torch.inf)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def typical(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_drift_is_alarmed_on_noise_and_not_on_digits(detector, held_out):
    noise = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.99
    quiet, loud = (Drift(detector.calibration.scores, detector.alpha) for _ in range(2))
    with torch.inference_mode():
        alarms = [
            sum(watch.update(detector(batch).score, 0) for batch in images.split(16))
            for watch, images in ((quiet, held_out[:200] / 255), (loud, noise))
        ]
    assert alarms == [0, 1]
    assert loud.log10_capital > 2 > quiet.log10_capital
    assert loud.current.alarms == 1


def test_a_window_ends_with_its_time_and_a_new_bet_begins():
    clock = Clock()
    watch = Drift(CALIBRATION, 0.05, 60.0, clock)
    assert watch.update(LOW, 16, 4)
    assert watch.log10_capital > 2
    clock.now += 59
    assert (watch.current.images, watch.current.refused, watch.current.complete) == (16, 16, False)
    clock.now += 1
    assert (watch.current.images, watch.log10_capital) == (0, 0)  # though no image has come
    watch.update(typical(10), 1)
    clock.now += 600  # nine windows without an image are left out
    assert not watch.update(typical(5), 0)
    told = watch.windows()
    assert [each.images for each in told] == [5, 10, 16]
    assert [each.seconds for each in told] == [0, 60, 60]
    assert [each.complete for each in told] == [False, True, True]
    assert (told[2].refused, told[2].not_finite, told[2].refusal_rate, told[2].alarms) == (16, 4, 1, 1)
    assert told[2].log10_capital > 2 > told[1].log10_capital
    clock.now += 59  # windows stay where they were, whenever images come
    assert watch.current.images == 5
    clock.now += 1
    assert watch.current.images == 0


def test_time_that_runs_backwards_stands_still():
    clock = Clock()
    watch = Drift(CALIBRATION, 0.05, 60.0, clock)
    clock.now += 30
    watch.update(typical(4), 0)
    clock.now -= 1000
    watch.update(typical(4), 0)
    assert (watch.current.images, watch.current.seconds) == (8, 30)
    clock.now += 1000 + 29
    assert watch.current.images == 8
    clock.now += 1
    assert [each.images for each in watch.windows()] == [0, 8]


@pytest.mark.parametrize("window", [None, 60.0])
def test_what_is_kept_is_bounded(window, monkeypatch):
    monkeypatch.setattr(drift, "STRETCH", 100)
    monkeypatch.setattr(drift, "N_KEPT", 5)
    clock = Clock()
    watch, sizes, alarms = Drift(CALIBRATION, 0.05, window, clock), [], 0
    for _ in range(60):
        clock.now += 30
        alarms += watch.update(LOW, 16)
        sizes.append(len(watch._bet.seen))
    assert max(sizes) < len(CALIBRATION) + 100 + 16
    assert len(watch.windows()) == 5
    assert alarms >= 6  # every stretch finds it anew


def test_a_long_window_has_several_stretches(monkeypatch):
    monkeypatch.setattr(drift, "STRETCH", 32)
    watch = Drift(CALIBRATION, 0.05, 1e9, Clock())
    assert sum(watch.update(LOW, 16) for _ in range(6)) == 3
    assert (watch.current.images, watch.current.alarms, len(watch.windows())) == (96, 3, 1)


def test_windows_are_told_by_route_and_metrics(detector, held_out):
    with serving(detector, app={"window": 3600.0}) as client:
        for image in held_out[:3]:
            client.post("/predict?explain=false", content=png(image))
        (window,) = client.get("/drift").json()["windows"]
        found = counted(client)
    assert window["images"] == found["gmm_torch_window_images",] == 3
    assert window["refused"] == found["gmm_torch_window_refused",] == found["gmm_torch_verdicts_total", "refused"]
    assert window["alpha"] == 0.05
    assert found["gmm_torch_drift_alarms_total",] == 0


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(None, None), (90, 90), ("90", 90), ("90s", 90), ("15min", 900), ("1h", 3600), ("1.5 h", 5400), ("7d", 604800)],
)
def test_lengths_of_time(told, seconds):
    assert seconds_of(told) == seconds


@pytest.mark.parametrize("told", ["", "h", "1 hour", "-1h", 0, "0s", "1e3", "..h", "nan", float("inf")])
def test_what_is_no_length_of_time_is_refused(told):
    with pytest.raises(ValueError, match=r"drift\.window: expected a length of time"):
        seconds_of(told)
