"""Drift of a stream and of windows of time: alarms as rare as promised, right counts, bounded memory."""

import pickle

import pytest
import torch
from scipy import stats

from gmm_torch.conformal.drift import DriftMonitor
from tests.trainers.serve.conftest import counted, png, serving
from trainers.serve.drift import Drift, whole_stream

CALIBRATION = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOW = torch.full((16,), -torch.inf)


class Clock:
    now = 1.7e9 + 20  # twenty seconds before a full minute

    def __call__(self) -> float:
        return self.now


def minutes(calibration=CALIBRATION, threshold=100.0, keep=48):
    return DriftMonitor(calibration, threshold, against="reference", seconds="1min", keep=keep)


def typical(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_false_alarms_are_as_rare_as_promised_on_a_whole_stream_and_in_each_window():
    """The chance that this test fails on a service that keeps its promise: at most 1e-3, for three tests together."""
    n, threshold, false = 120, 4.0, [0, 0, 0]
    for scores in torch.randn(n, 140, generator=torch.Generator().manual_seed(1)):
        calibration, *batches = scores.split([60, 40, 40])
        clock = Clock()
        whole = Drift(DriftMonitor(calibration, threshold, against="reference"), 0.05, clock)
        windows = Drift(minutes(calibration, threshold), 0.05, clock)
        for i, batch in enumerate(batches):
            false[0] += whole.update(batch, 0)
            false[1 + i] += windows.update(batch, 0)
            clock.now += 60
    assert min(stats.binomtest(k, n, 1 / threshold, alternative="greater").pvalue for k in false) > 1e-3 / 3
    assert min(false) > 0  # it spends some of what it may


def test_drift_is_alarmed_on_noise_and_not_on_digits(detector, held_out):
    noise = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.99
    quiet, loud = (Drift(whole_stream(detector.calibration.scores), detector.alpha) for _ in range(2))
    with torch.inference_mode():
        alarms = [
            sum(watch.update(detector(batch).score, 0) for batch in images.split(16))
            for watch, images in ((quiet, held_out[:200] / 255), (loud, noise))
        ]
    assert alarms == [0, 1]
    assert loud.log10_capital > 2 > quiet.log10_capital
    assert (loud.current.alarms, loud.current.images, loud.current.complete) == (1, 100, False)
    assert len(loud.windows()) == 1


def test_a_window_ends_with_its_time_and_a_new_bet_begins():
    clock = Clock()
    watch = Drift(minutes(), 0.05, clock)
    assert watch.update(LOW, 16, 4)
    assert not watch.update(LOW, 16)  # one alarm a window
    assert watch.log10_capital > 2
    clock.now += 19
    assert (watch.current.images, watch.current.refused, watch.current.complete) == (32, 32, False)
    clock.now += 1
    assert (watch.current.images, watch.log10_capital) == (0, 0)  # though no image has come
    watch.update(typical(10), 1)
    clock.now += 600  # nine windows without an image are left out
    assert not watch.update(typical(5), 0)
    told = watch.windows()
    assert [each.images for each in told] == [5, 10, 32]
    assert [each.seconds for each in told] == [0, 60, 20]  # it began within a minute
    assert [each.started[11:19] for each in told] == ["22:24:00", "22:14:00", "22:13:40"]
    assert [each.complete for each in told] == [False, True, True]
    assert (told[2].refused, told[2].not_finite, told[2].refusal_rate, told[2].alarms) == (32, 4, 1, 1)
    assert told[2].highest_log10_capital > 2 > told[1].highest_log10_capital
    assert watch.update(LOW, 16)  # and in each window one


def test_time_that_runs_backwards_stands_still():
    clock = Clock()
    watch = Drift(minutes(), 0.05, clock)
    clock.now += 10
    watch.update(typical(4), 0)
    clock.now -= 1000
    watch.update(typical(4), 0)
    assert (watch.current.images, watch.current.seconds) == (8, 10)
    clock.now += 1000 + 9
    assert watch.current.images == 8
    clock.now += 1
    assert [each.images for each in watch.windows()] == [0, 8]


def test_a_batch_without_images_leaves_the_counts_alone():
    clock = Clock()
    watch = Drift(minutes(keep=2), 0.05, clock)
    for _ in range(2):
        watch.update(typical(4), 3)
        clock.now += 60
    before = watch.windows()[1:]
    assert [(each.images, each.refused) for each in before] == [(4, 3)] * 2
    for _ in range(3):
        assert not watch.update(torch.empty(0), 0)
        assert watch.windows()[1:] == before
        clock.now += 60


@pytest.mark.parametrize("bets", [whole_stream, lambda scores: minutes(scores, keep=5)])
def test_what_is_kept_is_bounded(bets):
    clock, sizes = Clock(), []
    watch = Drift(bets(CALIBRATION), 0.05, clock)
    for i in range(40):
        clock.now += 30
        watch.update(typical(16, i), 1)
        sizes.append(len(pickle.dumps([watch.monitor, watch._counts])))
    assert max(sizes[20:]) < 1.1 * max(sizes[10:20])
    told = [(each.images, each.refused) for each in watch.windows()]
    assert told == ([(640, 40)] if watch.monitor.seconds is None else [(32, 2)] * 5)


def test_windows_are_told_by_route_and_metrics(detector, held_out):
    with serving(detector, app={"drift": minutes}) as client:
        for image in held_out[:3]:
            client.post("/predict?explain=false", content=png(image))
        windows = client.get("/drift").json()["windows"]
        found = counted(client)
    assert sum(each["images"] for each in windows) == 3
    assert sum(each["refused"] for each in windows) == found["gmm_torch_verdicts_total", "refused"]
    assert windows[0]["alpha"] == 0.05
    assert found["gmm_torch_window_images",] <= 3
    assert found["gmm_torch_drift_alarms_total",] == 0


def test_an_alarm_is_told_with_its_promise(detector, held_out, caplog):
    with serving(detector, app={"drift": lambda scores: minutes(scores + 1e3)}) as client:
        for image in held_out[:8]:
            client.post("/predict?explain=false", content=png(image))
        assert counted(client)["gmm_torch_drift_alarms_total",] >= 1
    assert "drift: the bet against the calibration inputs reached 100 times its stake" in caplog.text
    assert "it does so in a window of 60 s" in caplog.text
