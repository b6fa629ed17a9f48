"""The bounds on order statistics hold with the probability that they promise: by three other ways to compute it."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gmm_torch.conformal.calibration_conditional import BOUNDS, berk_jones_bounds
from gmm_torch.conformal.order_statistics import all_below


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
    expected = 1 - fails_exactly(bounds, n)
    found = all_below(np.array(bounds, dtype=np.float64), np.arange(1, len(bounds) + 1), n)
    assert found == pytest.approx(float(expected), abs=1e-12)


def test_ranks_that_are_left_out_are_not_bounded():
    # P(U_(3) <= 1/2) of five: P(binomial(5, 1/2) >= 3)
    assert all_below(np.array([0.5]), np.array([3]), 5) == pytest.approx(0.5)
    assert all_below(np.array([1e-300]), np.array([2]), 2) == 0


SIZES = [(n, delta) for n in (1, 2, 5, 19, 50, 200) for delta in (0.3, 0.1, 0.01)]


@pytest.mark.parametrize(("n", "delta"), [*SIZES, (1000, 0.3), (1000, 0.01), (5000, 0.1)])
def test_bounds_fail_as_often_as_promised_and_no_less(n, delta):
    exceeded = fails(below_one(berk_jones_bounds(n, delta)), n)
    assert 0.999 * delta <= exceeded <= delta + 1e-9


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("n", [1, 5, 50, 500])
def test_no_table_fails_more_often_than_promised(n, method):
    bounds = below_one(BOUNDS[method](n, 0.1))
    assert (fails(bounds, n) if len(bounds) else 0.0) <= 0.1 + 1e-9


def test_bounds_that_neighbours_share_hold_too():
    n, delta = 6000, 0.1
    table = berk_jones_bounds(n, delta)
    bounds = below_one(table)
    assert len(np.unique(bounds)) < len(bounds) == 3000
    last = np.flatnonzero(np.diff(bounds, append=1))  # where a bound ends: it is the one that binds
    fine = berk_jones_bounds(5000, delta)
    assert 0.999 * delta <= 1 - all_below(bounds[last], last + 1, n) <= delta
    assert bounds[0] < fine[0]
    # 2,000 simulated sets: four standard errors, a false alarm in 15,000
    ordered = np.sort(np.random.default_rng(0).random((2000, n), dtype=np.float32), 1)[:, : len(bounds)]
    assert (ordered > bounds).any(1).mean() <= delta + 4 * np.sqrt(delta * (1 - delta) / 2000)


def test_a_confidence_beyond_rounding_falls_back_to_bonferroni():
    bounds = below_one(berk_jones_bounds(40, 1e-12))
    assert stats.beta.sf(bounds, np.arange(1, 21), 40 - np.arange(20)) == pytest.approx(np.full(20, 1e-12 / 20))
