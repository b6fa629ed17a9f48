import math

import pytest
import torch
from scipy import stats

from gmm_torch.conformal.calibration_conditional import (
    berk_jones_bounds,
    conditional_alpha,
    conditional_calibration_size,
    dkw_bounds,
    false_alarm_interval,
    simes_bounds,
    simultaneous_calibration_size,
)
from gmm_torch.conformal.p_values import threshold_index

ALL = {"simes": simes_bounds, "dkw": dkw_bounds, "berk_jones": berk_jones_bounds}
every_method = pytest.mark.parametrize("bounds", ALL.values(), ids=ALL)


def test_simes_bounds_by_hand():
    # n = 4, k = 2: b_(5-i) = 1 - sqrt(delta i (i - 1) / 12), i = 4, 3, 2, 1
    expected = [1 - math.sqrt(0.1 * x / 12) for x in (12, 6, 2, 0)]
    torch.testing.assert_close(simes_bounds(4, 0.1, k=2), torch.tensor([*expected, 1.0]).double())


def test_dkw_bounds_by_hand():
    half_width = math.sqrt(math.log(10) / 20)
    expected = [min(1.0, i / 10 + half_width) for i in range(10)]
    torch.testing.assert_close(dkw_bounds(10, 0.1), torch.tensor([*expected, 1.0]).double())


def test_berk_jones_bounds_are_quantiles_of_the_order_statistics_at_one_level():
    bounds = berk_jones_bounds(40, 0.1)[:20]
    levels = [stats.beta.sf(float(b), i, 41 - i) for i, b in enumerate(bounds, 1)]
    assert levels == pytest.approx([levels[0]] * 20)
    assert 0.1 / 20 < levels[0] < 0.1  # between Bonferroni's and no correction


@every_method
@pytest.mark.parametrize("n", [1, 2, 19, 300])
def test_the_map_is_monotone_ends_at_one_and_never_lowers_a_p_value_by_more_than_the_grid(bounds, n):
    table = bounds(n, 0.1)
    assert table.shape == (n + 1,)
    assert table[-1] == 1
    assert bool((table.diff() >= 0).all())
    # a bound on the k-th smallest of n uniform numbers lies above its median, about (k - 0.3) / (n + 0.4)
    k = torch.arange(1, n + 1)
    assert bool((table[:-1] >= ((k - 0.5) / n).clamp(max=1) - 1e-9).all())


@every_method
def test_a_smaller_delta_gives_larger_bounds(bounds):
    assert bool((bounds(200, 0.01) >= bounds(200, 0.2) - 1e-12).all())


@pytest.mark.parametrize(("alpha", "delta", "n"), [(0.05, 0.1, 1000), (0.01, 0.05, 5000), (0.2, 0.5, 30)])
def test_the_conditional_level_is_the_highest_that_holds(alpha, delta, n):
    k = threshold_index(conditional_alpha(alpha, n, delta), n)
    assert stats.beta.cdf(alpha, k, n + 1 - k) >= 1 - delta
    assert stats.beta.cdf(alpha, k + 1, n - k) < 1 - delta


def test_the_smallest_set_is_that_of_the_formula():
    for alpha, delta in ((0.05, 0.1), (0.01, 0.05), (0.2, 0.01)):
        assert conditional_calibration_size(alpha, delta) == math.ceil(math.log(delta) / math.log1p(-alpha))


@pytest.mark.parametrize("level", [0.02, 0.035, 0.045])
def test_the_calculator_finds_the_smallest_set(level):
    def enough(n):
        k = math.ceil(level * (n + 1) - 1e-9)
        return stats.binom.sf(k - 1, n, 0.05) >= 0.9

    n = conditional_calibration_size(0.05, 0.1, level)
    assert enough(n)
    assert not any(enough(smaller) for smaller in range(1, n))


def test_calculator_and_level_agree():
    n = conditional_calibration_size(0.05, 0.1)
    assert conditional_alpha(0.05, n, 0.1) == 1.5 / (n + 1)
    with pytest.raises(ValueError, match=f"needs at least {n} inputs; got {n - 1}"):
        conditional_alpha(0.05, n - 1, 0.1)


def test_the_calculator_for_all_alphas_finds_the_smallest_set():
    # Simes: 1 - delta^(1/k) <= alpha with k = n // 2
    k = math.ceil(math.log(0.1) / math.log1p(-0.05))
    assert simultaneous_calibration_size(0.05, 0.1, simes_bounds) == 2 * k
    # DKW: sqrt(log(1/delta) / (2n)) <= alpha
    assert simultaneous_calibration_size(0.05, 0.1, dkw_bounds) == math.ceil(math.log(10) / (2 * 0.05**2))
    n = simultaneous_calibration_size(0.05, 0.1)
    assert berk_jones_bounds(n, 0.1)[0] <= 0.05 < berk_jones_bounds(n - 1, 0.1)[0]
    assert n > conditional_calibration_size(0.05, 0.1)
    with pytest.raises(ValueError, match="takes more than 16777216 inputs"):
        simultaneous_calibration_size(1e-5, 0.1, dkw_bounds)


def test_the_interval_of_the_false_alarm_rate_is_that_of_a_beta_distribution():
    low, high = false_alarm_interval(0.05, 999, 0.9)
    assert stats.beta.cdf([low, high], 50, 950) == pytest.approx([0.05, 0.95])
    assert false_alarm_interval(0.05, 10) == (0, 0)


def test_bad_settings_are_refused_in_words():
    with pytest.raises(ValueError, match="delta: expected a number between 0 and 1"):
        simes_bounds(10, 0)
    with pytest.raises(ValueError, match="k: expected a number from 1 to n=10"):
        simes_bounds(10, 0.1, k=11)
    with pytest.raises(ValueError, match="share: expected"):
        berk_jones_bounds(10, 0.1, share=1.5)
    with pytest.raises(ValueError, match="level: expected a number in"):
        conditional_calibration_size(0.05, 0.1, level=0.05)
    with pytest.raises(ValueError, match="n: expected at least 1"):
        dkw_bounds(0, 0.1)
