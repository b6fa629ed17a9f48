import math

import pytest
import torch

from gmm_torch.conformal.martingale import bet, first_alarm, online_p_values
from gmm_torch.conformal.p_values import stream_uniforms
from gmm_torch.evaluation.martingale import ExchangeabilityMartingale
from tests.processes import run_processes


def stream(n=200, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(150, generator=generator), torch.randn(n, generator=generator) - shift


def whole(calibration, scores, seed=0):
    uniform = stream_uniforms(len(scores), seed)
    return bet(online_p_values(scores, uniform, calibration.sort().values).p_value).log_path


@pytest.mark.parametrize("size", [1, 17, 200])
def test_updates_add_up_to_the_functional_of_the_whole(size):
    calibration, scores = stream()
    metric = ExchangeabilityMartingale(calibration)
    for part in scores.split(size):
        metric.update(part)
    path = whole(calibration, scores)
    torch.testing.assert_close(metric.compute(), path[-1])
    torch.testing.assert_close(metric.log_maximum, path.max().clamp(min=0))
    assert metric.n_seen == 200


def test_forward_gives_the_capital_so_far():
    calibration, scores = stream()
    metric = ExchangeabilityMartingale(calibration)
    path = whole(calibration, scores)
    torch.testing.assert_close(metric(scores[:50]), path[49])
    torch.testing.assert_close(metric(scores[50:]), path[-1])


def test_the_alarm_comes_where_the_capital_reached_the_threshold_and_stays():
    calibration, scores = stream(shift=1.5)
    metric = ExchangeabilityMartingale(calibration, threshold=50)
    metric.update(scores[:3])
    assert not metric.alarm
    assert metric.alarm_index is None
    for part in scores[3:].split(20):
        metric.update(part)
    metric.update(torch.zeros(1000))
    assert metric.alarm
    assert metric.alarm_index == first_alarm(whole(calibration, scores), 50)


def test_a_reset_starts_the_same_stream_anew():
    calibration, scores = stream(shift=1)
    metric = ExchangeabilityMartingale(calibration)
    first = metric(scores)
    metric.reset()
    assert not metric.alarm
    assert len(metric.seen) == 150
    assert metric(scores) == first


def test_it_needs_no_calibration_set():
    scores = torch.cat([stream()[0], stream(shift=3)[1]])
    metric = ExchangeabilityMartingale(threshold=1000)
    metric.update(scores)
    assert metric.alarm_index > 150


def test_an_empty_batch_and_nan_are_no_trouble():
    metric = ExchangeabilityMartingale(stream()[0])
    metric.update(torch.empty(0))
    assert metric.n_seen == 0
    metric.update(torch.full((20,), torch.nan))
    assert math.isfinite(float(metric.compute()))
    assert metric.alarm


def test_bad_settings_are_refused_in_words():
    with pytest.raises(ValueError, match=r"capital above 1; got 0\.01"):
        ExchangeabilityMartingale(threshold=0.01)
    with pytest.raises(ValueError, match="calibration scores: expected numbers"):
        ExchangeabilityMartingale(torch.tensor([torch.nan]))
    with pytest.raises(NotImplementedError, match="can't be merged"):
        ExchangeabilityMartingale().merge_state({})


def _one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    calibration, scores = stream(40)
    metric = ExchangeabilityMartingale(calibration)
    for batch in scores.split(10)[rank::2]:
        metric.update(batch)
    (folder / str(rank)).write_text(repr(float(metric.compute())))
    torch.distributed.destroy_process_group()


def test_two_processes_hold_one_stream(tmp_path):
    calibration, scores = stream(40)
    expected = float(whole(calibration, scores)[-1])
    run_processes(_one_of_two, (tmp_path,), 2)
    assert [float((tmp_path / name).read_text()) for name in "01"] == [pytest.approx(expected)] * 2
