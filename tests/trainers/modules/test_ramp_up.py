import math

import pytest

from trainers.modules.mean_teacher import sigmoid_ramp_up


def test_it_rises_from_nearly_zero_to_one_and_stays_there():
    values = [sigmoid_ramp_up(step, 10) for step in range(15)]
    assert values[0] == pytest.approx(math.exp(-5))
    assert values == sorted(values)
    assert values[5] == pytest.approx(math.exp(-5 / 4))
    assert values[9] < values[10] == values[14] == 1


def test_without_a_length_it_is_one_from_the_start():
    assert sigmoid_ramp_up(0, 0) == 1
