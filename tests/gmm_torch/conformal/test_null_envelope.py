from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy import stats

from gmm_torch.conformal.null_envelope import all_within, envelope, envelopes


def counts(n, m):
    """V(1) ... V(n) of every order of n calibration and m test inputs."""
    for places in combinations(range(n + m), m):
        is_test = np.isin(np.arange(n + m), places)
        yield is_test.cumsum()[~is_test]


@pytest.mark.parametrize(("n", "m", "ranks", "bounds"), [(4, 3, [1, 2, 4], [1, 1, 2]), (5, 6, [2, 3, 5], [3, 3, 5])])
def test_the_probability_is_the_share_of_all_orders(n, m, ranks, bounds):
    held = [bool((v[np.array(ranks) - 1] <= bounds).all()) for v in counts(n, m)]
    assert all_within(np.array(bounds), np.array(ranks), n, m) == pytest.approx(np.mean(held), rel=1e-12)


def test_one_bound_alone_is_the_beta_binomial_of_scipy():
    n, m, k, bound = 3000, 2000, 70, 60
    found = all_within(np.array([bound]), np.array([k]), n, m)
    assert found == pytest.approx(stats.betabinom.cdf(bound, m, k, n + 1 - k), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (20, 1), (3, 200), (500, 100), (5000, 3000)])
def test_an_envelope_holds_with_its_confidence_and_is_nowhere_much_wider(n, m):
    ranks, bounds = envelope(n, m, 0.1)
    assert all_within(bounds, ranks, n, m) >= 0.9
    assert (np.diff(bounds) >= 0).all()
    assert bounds.max() <= m
    if min(n, m) >= 100:
        assert all_within(bounds, ranks, n, m) < 0.91


def test_a_larger_size_has_no_lower_bound_anywhere():
    ranks, sizes = envelopes(200, 150, 0.2)
    assert [size for size, _ in sizes] == sorted({size for size, _ in sizes})
    assert sizes[-1][0] == 150
    for (_, lower), (size, upper) in pairwise(sizes):
        assert (lower <= upper).all()
        assert all_within(upper, ranks, 200, size) >= 0.8
