import math

import pytest
import torch

from trainers.classifiers.schedules import warmup_cosine


def _rates(total_steps, **options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = warmup_cosine(optimizer, total_steps, **options)
    rates = []
    for _ in range(total_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_without_warmup_the_rate_is_half_a_cosine():
    expected = [2.0 * 0.5 * (1 + math.cos(math.pi * i / 10)) for i in range(11)]
    assert _rates(10) == pytest.approx(expected, abs=1e-12)


def test_the_rate_peaks_after_the_warmup():
    rates = _rates(10, warmup_share=0.3, start_factor=0.1)
    assert rates[0] == pytest.approx(0.2)
    assert max(range(11), key=rates.__getitem__) == 3
    assert rates[3] == pytest.approx(2.0)
    assert rates[10] == pytest.approx(0.0, abs=1e-12)


def test_a_single_step_is_possible():
    assert _rates(1, warmup_share=0.3)[0] > 0


@pytest.mark.parametrize(
    ("total_steps", "options"),
    [(0, {}), (10, {"warmup_share": 1.0}), (10, {"warmup_share": -0.1}), (10, {"start_factor": 0.0})],
)
def test_arguments_out_of_range_are_refused(total_steps, options):
    with pytest.raises(ValueError, match="expected"):
        _rates(total_steps, **options)
