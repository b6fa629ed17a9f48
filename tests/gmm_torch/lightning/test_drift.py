import math
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from gmm_torch.conformal.drift import DriftMonitor
from gmm_torch.errors import DriftError
from gmm_torch.lightning.drift import DriftCallback, DriftWarning
from tests.processes import run_processes


class Result(NamedTuple):
    score: torch.Tensor


class Scores(lightning.LightningModule):
    """A module whose inputs are its scores."""

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


def trainer(callback, tmp_path, logger=False):
    return lightning.Trainer(
        accelerator="cpu",
        callbacks=[callback],
        logger=CSVLogger(tmp_path) if logger else False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )


@pytest.mark.parametrize("options", [{}, {"against": "reference", "promise": "set"}])
def test_it_says_what_a_monitor_of_the_scores_says_and_warns_once(tmp_path, options):
    calibration, stream = data(shift=3)
    callback, alone = DriftCallback(**options), DriftMonitor(calibration, **options)
    with pytest.warns(DriftWarning) as caught:
        trainer(callback, tmp_path).predict(Scores(calibration), DataLoader(stream, batch_size=16))
    alarms, path = [], []
    for part in stream.split(16):
        alarms += alone.update(part)
        path.append(alone.log_capital / math.log(10))
    assert callback.alarms == alarms
    assert 100 < callback.alarms[0] < 120
    assert callback.path == path
    assert sum(issubclass(warning.category, DriftWarning) for warning in caught) == 1


def test_each_run_starts_a_stream_and_logs(tmp_path):
    calibration, stream = data(shift=0)
    callback = DriftCallback(calibration)
    app = trainer(callback, tmp_path, logger=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DriftWarning)
        for _ in range(2):
            app.test(Scores(torch.empty(0)), DataLoader(stream, batch_size=100), verbose=False)
            assert callback.monitor.n_seen == 200
    app.logger.save()
    assert "drift/log10_capital" in next(tmp_path.rglob("metrics.csv")).read_text()


def test_it_can_stop_a_run(tmp_path):
    calibration, stream = data(shift=3)
    callback = DriftCallback(stop=True)
    with pytest.raises(DriftError, match="drift at input 1"):
        trainer(callback, tmp_path).predict(Scores(calibration), DataLoader(stream, batch_size=10))
    assert 100 < callback.monitor.n_seen < 200


def test_earlier_inputs_count_in_windows_of_time(tmp_path):
    calibration, stream = data(shift=3)
    found = []
    for first in (0, 12):  # the whole stream, and the rest of it after 120 inputs
        arrived = iter(torch.arange(200).double().split(10)[first:])
        callback = DriftCallback(
            against="reference", seconds="50s", time=lambda outputs, arrived=arrived: next(arrived)
        )
        if first:
            callback.earlier, callback.earlier_times = stream[:120], torch.arange(120).double()
        with pytest.warns(DriftWarning, match="does so in a window of 50 s"):
            trainer(callback, tmp_path).predict(Scores(calibration), DataLoader(stream[10 * first :], batch_size=10))
        found.append(callback.alarms)
    assert found[0] == found[1]
    assert [index // 50 for index in found[0]] == [2, 3]


def test_bad_arguments_and_steps_are_refused(tmp_path):
    for options in ({"seconds": 9}, {"seconds": 9, "against": "reference"}):
        with pytest.raises(ValueError, match="seconds: expected"):
            DriftCallback(**options)
    stream = data(0)[1]
    with pytest.raises(ValueError, match="expected calibration scores; got none"):
        trainer(DriftCallback(), tmp_path).predict(Scores(torch.empty(0)), DataLoader(stream))


def _one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    calibration, stream = data(0)
    callback = DriftCallback(calibration)
    callback.on_predict_start(None, None)
    for batch in stream.split(50)[rank::2]:
        callback.on_predict_batch_end(SimpleNamespace(loggers=[]), None, Result(batch), None, 0)
    (folder / str(rank)).write_text(repr(callback.monitor.log_capital))
    torch.distributed.destroy_process_group()


def test_two_processes_hold_one_stream(tmp_path):
    calibration, stream = data(0)
    alone = DriftMonitor(calibration)
    alone.update(stream)
    run_processes(_one_of_two, (tmp_path,), 2)
    assert [float((tmp_path / name).read_text()) for name in "01"] == [pytest.approx(alone.log_capital)] * 2
