"""Bounds given the calibration set: by hand, and by three other ways to compute their probability."""

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gmm_torch.conformal.conditional import (
    BOUNDS,
    ConditionalCalibration,
    _all_below,
    berk_jones_bounds,
    conditional_alpha,
    conditional_calibration_size,
    dkw_bounds,
    simes_bounds,
    simultaneous_calibration_size,
)
from gmm_torch.conformal.p_values import conformal_p_value, threshold_index

every_method = pytest.mark.parametrize("method", BOUNDS)


def fails_exactly(bounds: list[Fraction], n: int) -> Fraction:
    """P(U_(k) > b_k for some k <= m), in rational numbers, by the first k: N(b_k) = k - 1 for the first time."""
    first: list[Fraction] = []
    for k, b in enumerate(bounds):
        there = comb(n, k) * b**k * (1 - b) ** (n - k)
        for j, (earlier, p) in enumerate(zip(bounds, first, strict=False)):
            step = (b - earlier) / (1 - earlier)
            there -= p * comb(n - j, k - j) * step ** (k - j) * (1 - step) ** (n - k)
        first.append(there)
    return sum(first, Fraction(0))


def fails(bounds: np.ndarray, n: int) -> float:
    """The same in floating point."""
    k = np.arange(len(bounds))
    first = stats.binom.pmf(k, n, bounds)
    for i in range(len(bounds)):
        j, later = k[i], k[i + 1 :]
        step = (bounds[i + 1 :] - bounds[i]) / (1 - bounds[i])
        first[i + 1 :] -= first[i] * stats.binom.pmf(later - j, n - j, step)
    return float(first.sum())


def below_one(table: torch.Tensor) -> np.ndarray:
    return table[table < 1].numpy()


@given(st.lists(st.fractions(0, 1, max_denominator=60), min_size=1, max_size=7, unique=True), st.integers(0, 6))
def test_the_probability_is_that_of_rational_arithmetic(bounds, more):
    bounds = sorted(b for b in bounds if 0 < b < 1) or [Fraction(1, 3)]
    n = len(bounds) + more
    found = _all_below(np.array(bounds, dtype=np.float64), np.arange(1, len(bounds) + 1), n)
    assert found == pytest.approx(float(1 - fails_exactly(bounds, n)), abs=1e-12)


def test_ranks_that_are_left_out_are_not_bounded():
    # P(U_(3) <= 1/2) of five: P(binomial(5, 1/2) >= 3)
    assert _all_below(np.array([0.5]), np.array([3]), 5) == pytest.approx(0.5)
    assert _all_below(np.array([1e-300]), np.array([2]), 2) == 0


@pytest.mark.parametrize(("n", "delta"), [(1, 0.1), (2, 0.3), (19, 0.01), (200, 0.1), (1000, 0.01), (5000, 0.1)])
def test_berk_jones_bounds_fail_as_often_as_promised_and_no_less(n, delta):
    assert 0.999 * delta <= fails(below_one(berk_jones_bounds(n, delta)), n) <= delta + 1e-9


@every_method
@pytest.mark.parametrize("n", [1, 5, 500])
def test_no_table_fails_more_often_than_promised(n, method):
    table = BOUNDS[method](n, 0.1)
    assert table.shape == (n + 1,)
    assert table[-1] == 1
    assert bool((table.diff() >= 0).all())
    bounds = below_one(table)
    assert (fails(bounds, n) if len(bounds) else 0.0) <= 0.1 + 1e-9


def test_bounds_that_neighbours_share_hold_too():
    n, delta = 6000, 0.1
    bounds = below_one(berk_jones_bounds(n, delta))
    assert len(np.unique(bounds)) < len(bounds) == 3000
    last = np.flatnonzero(np.diff(bounds, append=1))  # where a bound ends: it is the one that binds
    assert 0.999 * delta <= 1 - _all_below(bounds[last], last + 1, n) <= delta
    # 2,000 simulated sets: four standard errors, a false alarm in 15,000
    ordered = np.sort(np.random.default_rng(0).random((2000, n), dtype=np.float32), 1)[:, : len(bounds)]
    assert (ordered > bounds).any(1).mean() <= delta + 4 * np.sqrt(delta * (1 - delta) / 2000)


def test_a_confidence_beyond_rounding_falls_back_to_bonferroni():
    bounds = below_one(berk_jones_bounds(40, 1e-12))
    assert stats.beta.sf(bounds, np.arange(1, 21), 40 - np.arange(20)) == pytest.approx(np.full(20, 1e-12 / 20))


def test_bounds_by_hand():
    # Simes, n = 4, k = 2: b_(5-i) = 1 - sqrt(delta i (i - 1) / 12), i = 4, 3, 2, 1
    expected = [1 - math.sqrt(0.1 * x / 12) for x in (12, 6, 2, 0)]
    torch.testing.assert_close(simes_bounds(4, 0.1, k=2), torch.tensor([*expected, 1.0]).double())
    half_width = math.sqrt(math.log(10) / 20)
    expected = [min(1.0, i / 10 + half_width) for i in range(10)]
    torch.testing.assert_close(dkw_bounds(10, 0.1), torch.tensor([*expected, 1.0]).double())


@every_method
def test_p_values_are_the_bounds_of_the_conformal_ones(method):
    scores, x = (torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (200, 50))
    calibration = ConditionalCalibration(0.2, method).fit(scores, 0.1)
    plain = conformal_p_value(x, scores.sort().values)
    torch.testing.assert_close(calibration.p_value(x), BOUNDS[method](200, 0.2)[(201 * plain).round().long() - 1])
    with pytest.raises(ValueError, match="uniform: expected None"):
        calibration.p_value(x, uniform=torch.ones(50))


@pytest.mark.parametrize(("alpha", "delta", "n"), [(0.05, 0.1, 1000), (0.01, 0.05, 5000), (0.2, 0.5, 30)])
def test_the_conditional_level_is_the_highest_that_holds(alpha, delta, n):
    k = threshold_index(conditional_alpha(alpha, n, delta), n)
    assert stats.beta.cdf(alpha, k, n + 1 - k) >= 1 - delta
    assert stats.beta.cdf(alpha, k + 1, n - k) < 1 - delta


def test_the_smallest_set_for_one_alpha():
    for alpha, delta in ((0.05, 0.1), (0.2, 0.01)):
        n = conditional_calibration_size(alpha, delta)
        assert n == math.ceil(math.log(delta) / math.log1p(-alpha))
        assert conditional_alpha(alpha, n, delta) == 1.5 / (n + 1)
        with pytest.raises(ValueError, match=f"needs at least {n} inputs; got {n - 1}"):
            conditional_alpha(alpha, n - 1, delta)

    def enough(n):
        return stats.binom.sf(math.ceil(0.035 * (n + 1) - 1e-9) - 1, n, 0.05) >= 0.9

    n = conditional_calibration_size(0.05, 0.1, 0.035)
    assert enough(n)
    assert not any(enough(smaller) for smaller in range(1, n))


def test_the_smallest_set_for_every_alpha():
    # Simes: 1 - delta^(1/k) <= alpha with k = n // 2; DKW: sqrt(log(1/delta) / (2n)) <= alpha
    k = math.ceil(math.log(0.1) / math.log1p(-0.05))
    assert simultaneous_calibration_size(0.05, 0.1, simes_bounds) == 2 * k
    assert simultaneous_calibration_size(0.05, 0.1, dkw_bounds) == math.ceil(math.log(10) / (2 * 0.05**2))
    n = simultaneous_calibration_size(0.05, 0.1)
    assert berk_jones_bounds(n, 0.1)[0] <= 0.05 < berk_jones_bounds(n - 1, 0.1)[0]
    with pytest.raises(ValueError, match="more than 16777216 inputs"):
        simultaneous_calibration_size(1e-5, 0.1, dkw_bounds)


def test_bad_settings_are_refused():
    for call, name in (
        (lambda: simes_bounds(10, 0), "delta"),
        (lambda: simes_bounds(10, 0.1, k=11), "k"),
        (lambda: dkw_bounds(0, 0.1), "n"),
        (lambda: conditional_calibration_size(0.05, 0.1, level=0.05), "level"),
        (lambda: ConditionalCalibration(0.1, "exact"), "method"),
        (lambda: ConditionalCalibration(1.0), "delta"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            call()
