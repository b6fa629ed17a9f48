import math
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from gmm_torch.conformal.martingale import bet, first_alarm, online_p_values
from gmm_torch.conformal.p_values import stream_uniforms
from gmm_torch.conformal.reference_martingale import ReferenceMartingale
from gmm_torch.errors import DriftError
from gmm_torch.lightning.drift import DriftMonitor, DriftWarning


class Result(NamedTuple):
    score: torch.Tensor


class Scores(lightning.LightningModule):
    """Its inputs are its scores."""

    def __init__(self, calibration):
        super().__init__()
        self.detector = SimpleNamespace(calibration=SimpleNamespace(scores=calibration))

    def predict_step(self, batch, batch_idx):
        return Result(batch)

    def test_step(self, batch, batch_idx):
        return {"score": batch}


def data(shift):
    generator = torch.Generator().manual_seed(0)
    calibration = torch.randn(200, generator=generator)
    stream = torch.randn(200, generator=generator)
    stream[100:] -= shift
    return calibration, stream


def trainer(monitor, tmp_path, logger=False):
    return lightning.Trainer(
        accelerator="cpu",
        callbacks=[monitor],
        logger=CSVLogger(tmp_path) if logger else False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )


def path_of(calibration, stream):
    ranked = online_p_values(stream, stream_uniforms(len(stream), 0), calibration.sort().values)
    return bet(ranked.p_value).log_path


def test_it_follows_the_stream_and_warns_once(tmp_path):
    calibration, stream = data(shift=3)
    monitor = DriftMonitor()
    with pytest.warns(DriftWarning) as caught:
        trainer(monitor, tmp_path).predict(Scores(calibration), DataLoader(stream, batch_size=16))
    path = path_of(calibration, stream)
    assert sum(issubclass(warning.category, DriftWarning) for warning in caught) == 1
    assert monitor.martingale.alarm_index == first_alarm(path, 100) > 100
    ends = [*range(15, 200, 16), 199]
    assert monitor.path == pytest.approx([float(path[end]) / math.log(10) for end in ends])


def test_a_clean_stream_raises_no_alarm_and_a_new_run_starts_anew(tmp_path):
    calibration, stream = data(shift=0)
    monitor = DriftMonitor()
    app = trainer(monitor, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DriftWarning)
        for _ in range(2):
            app.predict(Scores(calibration), DataLoader(stream, batch_size=50))
            assert monitor.martingale.n_seen == 200
    assert len(monitor.path) == 4


def test_it_stops_a_run_if_told_to(tmp_path):
    calibration, stream = data(shift=3)
    monitor = DriftMonitor(stop=True)
    with pytest.raises(DriftError) as error:
        trainer(monitor, tmp_path).predict(Scores(calibration), DataLoader(stream, batch_size=10))
    assert 100 < monitor.martingale.n_seen < 200
    assert str(error.value).startswith(f"drift at input {monitor.alarms[0] + 1}: ")


def test_it_watches_test_runs_with_scores_of_its_own_and_logs(tmp_path):
    calibration, stream = data(shift=0)
    monitor = DriftMonitor(calibration, threshold=1e6)
    app = trainer(monitor, tmp_path, logger=True)
    app.test(Scores(torch.empty(0)), DataLoader(stream, batch_size=100), verbose=False)
    app.logger.save()
    logged = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()
    assert "drift/log10_capital" in logged[0]
    assert len(logged) == 3


def test_what_it_can_not_watch_is_refused_in_words(tmp_path):
    stream = data(0)[1]
    with pytest.raises(ValueError, match="has no calibrated `detector`"):
        trainer(DriftMonitor(), tmp_path).predict(Scores(torch.empty(0)), DataLoader(stream))
    monitor = DriftMonitor(score=lambda outputs: DriftMonitor().score(outputs.score))
    with pytest.raises(TypeError, match="expected steps to return something with a tensor `score`; got Tensor"):
        trainer(monitor, tmp_path).predict(Scores(stream), DataLoader(stream))


@pytest.mark.parametrize("promise", ["average", "set"])
def test_a_bet_against_the_reference_is_that_of_the_class_with_an_alarm_that_warns_once(tmp_path, promise):
    calibration, stream = data(shift=3)
    monitor = DriftMonitor(against="reference", promise=promise)
    with pytest.warns(DriftWarning) as caught:
        trainer(monitor, tmp_path).predict(Scores(calibration), DataLoader(stream, batch_size=16))
    alone = ReferenceMartingale(calibration, promise=promise)
    assert monitor.alarms == [alone.update(stream).alarm_at]
    assert 100 < monitor.alarms[0] < 120
    assert sum(issubclass(warning.category, DriftWarning) for warning in caught) == 1
    assert monitor.path[-1] == pytest.approx(float(alone.log_capital) / math.log(10))


def test_in_windows_of_time_each_has_its_alarm_and_earlier_inputs_count(tmp_path):
    calibration, stream = data(shift=3)

    def monitor():
        arrived = iter(torch.arange(200).double().split(10)[first:])
        return DriftMonitor(against="reference", seconds="50s", time=lambda outputs: next(arrived))

    found = []
    for first in (0, 12):  # at once, and begun again behind 120 inputs
        watch = monitor()
        if first:
            watch.earlier, watch.earlier_times = stream[:120], torch.arange(120).double()
        with pytest.warns(DriftWarning, match="does so in a window of 50 s"):
            trainer(watch, tmp_path).predict(Scores(calibration), DataLoader(stream[10 * first :], batch_size=10))
        found.append(watch.alarms)
        assert [window.start for window in watch.windows.windows] == [0, 50, 100, 150]
    assert found[0] == found[1]
    assert [index // 50 for index in found[0]] == [2, 3]


def test_windows_need_times_and_a_reference():
    for options in ({"seconds": 9}, {"seconds": 9, "against": "reference"}, {"seconds": 9, "time": len}):
        with pytest.raises(ValueError, match="seconds: expected none without against='reference' and time"):
            DriftMonitor(**options)
    for options, message in (
        ({"against": "both"}, "against: expected 'stream' or 'reference'; got 'both'"),
        ({"against": "reference", "promise": "both"}, "promise: expected 'average' or 'set'; got 'both'"),
        ({"threshold": 0.01}, "threshold: expected a capital above 1; got 0.01"),
        ({"against": "reference", "time": len, "seconds": "1 hour"}, "seconds: expected a length of time"),
    ):
        with pytest.raises(ValueError, match=message):
            DriftMonitor(**options)
