import pytest
from scipy import stats

from gmm_torch.evaluation.binomial import interval, upper_bound


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20), (7, 1000)])
def test_the_interval_is_scipys_exact_one(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
    assert interval(k, n, 0.9) == pytest.approx((expected.low, expected.high))


def test_at_the_upper_bound_so_few_events_are_as_rare_as_stated():
    bound = upper_bound(3, 50, 0.95)
    assert stats.binom.cdf(3, 50, bound) == pytest.approx(0.05)
    assert upper_bound(0, 50, 0.95) == pytest.approx(1 - 0.05 ** (1 / 50))


@pytest.mark.parametrize(("k", "n"), [(1, 10**9), (3, 10**12)])
def test_the_lower_bound_of_a_rare_event_keeps_its_digits(k, n):
    assert interval(k, n)[0] == pytest.approx(float(stats.beta.ppf(0.025, k, n - k + 1)), rel=1e-9, abs=0)


def test_no_trials_say_nothing():
    assert interval(0, 0) == (0, 1)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="expected 0 <= events <= n; got 3 of 2"):
        upper_bound(3, 2, 0.9)
    with pytest.raises(ValueError, match="confidence"):
        interval(1, 2, 95)
