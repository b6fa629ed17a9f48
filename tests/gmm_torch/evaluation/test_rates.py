import pytest
import torch
from scipy import stats

from gmm_torch.evaluation.rates import (
    RateBin,
    class_counts,
    cochran_armitage,
    error_rates,
    homogeneity,
    interval,
    rises,
    upper_bound,
)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20), (7, 1000)])
def test_the_interval_is_scipys_exact_one(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
    assert interval(k, n, 0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("k", "n"), [(1, 10**9), (3, 10**12)])
def test_the_lower_bound_of_a_rare_event_keeps_its_digits(k, n):
    assert interval(k, n)[0] == pytest.approx(float(stats.beta.ppf(0.025, k, n - k + 1)), rel=1e-9, abs=0)


def test_at_the_upper_bound_so_few_events_are_as_rare_as_stated():
    bound = upper_bound(3, 50, 0.95)
    assert stats.binom.cdf(3, 50, bound) == pytest.approx(0.05)
    assert upper_bound(0, 50, 0.95) == pytest.approx(1 - 0.05 ** (1 / 50))
    assert interval(0, 0) == (0, 1)


@pytest.mark.parametrize("n", [0, 200])
def test_counts_are_those_of_a_loop_with_empty_groups_and_classes_included(n):
    generator = torch.Generator().manual_seed(0)
    group, label = torch.randint(0, 4, (n,), generator=generator), torch.randint(1, 3, (n,), generator=generator)
    expected = torch.zeros(5, 4, dtype=torch.long)
    for g, c in zip(group.tolist(), label.tolist(), strict=True):
        expected[g, c] += 1
    assert torch.equal(class_counts(group, label, 5, 4), expected)


def groups(rates, n=400, seed=0):
    """Sizes of groups, and events in each."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(len(rates), (n,), generator=generator)
    event = torch.rand(n, generator=generator) < torch.tensor(rates)[group]
    return torch.bincount(group, minlength=len(rates)), torch.bincount(group[event], minlength=len(rates))


def test_homogeneity_of_many_is_the_chi_squared_test_and_of_two_small_groups_close_to_fishers():
    sizes, events = groups([0.2, 0.25, 0.22], n=3000)
    expected = stats.chi2_contingency(torch.stack([events, sizes - events]), correction=False).pvalue
    assert homogeneity(sizes, events) == pytest.approx(expected, abs=5 * (expected / 9999) ** 0.5)
    assert homogeneity([4, 0, 4], [3, 0, 1]) == pytest.approx(stats.fisher_exact([[3, 1], [1, 3]]).pvalue, abs=0.02)


def test_one_group_with_all_the_events_is_found_and_equal_rates_are_not():
    assert homogeneity(*groups([0.3, 0.02, 0.02])) == 1 / 10_000
    p = [homogeneity(*groups([0.05] * 5, n=200, seed=seed), n_draws=199) for seed in range(400)]
    # a binomial(400, 0.05) exceeds 36 once in 3000 tries; the seeds are fixed
    assert sum(value <= 0.05 for value in p) <= 36


def test_no_event_or_nothing_else_shows_nothing():
    assert homogeneity([3, 3, 3], [0, 0, 0]) == homogeneity([3, 3, 3], [3, 3, 3]) == homogeneity([9], [2]) == 1


def draw(n, slope, seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(n, generator=generator)
    return p, torch.rand(n, generator=generator) < 0.2 - slope * p


def test_bins_by_hand():
    p = torch.tensor([0.0, 0.1, 0.5, 0.5001, 1.0])
    low, high = error_rates(p, torch.tensor([1, 0, 1, 0, 1]), edges=[0, 0.5, 1])
    assert (low.n, low.n_errors, low.rate) == (3, 2, pytest.approx(2 / 3))
    assert (high.n, high.n_errors, high.rate) == (2, 1, 0.5)
    exact = stats.binomtest(2, 3).proportion_ci(0.95)
    assert low.interval == pytest.approx((exact.low, exact.high))
    empty = error_rates(torch.ones(3), torch.zeros(3), [0, 0.5, 1])[0]
    assert (empty.rate, empty.interval) == (None, (0, 1))


def test_the_trend_is_the_correlation_of_bin_and_error():
    p, errors = draw(400, 0.15, 1)
    bins = error_rates(p, errors, [0, 0.25, 0.5, 0.75, 1])
    place = (p * 4).ceil().numpy()
    z = stats.pearsonr(place, errors.numpy()).statistic * (len(p) - 1) ** 0.5
    assert cochran_armitage(bins) == pytest.approx(stats.norm.cdf(z))


def test_the_trend_test_looks_in_one_direction_and_holds_its_level():
    assert cochran_armitage(error_rates(*draw(3000, 0.15, 0))) < 1e-6
    p, errors = draw(3000, 0.15, 0)
    assert cochran_armitage(error_rates(1 - p, errors)) > 0.99
    null = [cochran_armitage(error_rates(*draw(300, 0, seed))) for seed in range(400)]
    # a binomial(400, 0.05) exceeds 36 once in 3000 tries; the seeds are fixed
    assert sum(value <= 0.05 for value in null) <= 36


def bins_of(*counts):
    return [RateBin(i, i + 1, n, k, k / n if n else None, (0.0, 1.0)) for i, (k, n) in enumerate(counts)]


def test_one_rise_is_fishers_exact_test_times_the_number_of_neighbours():
    # from 1 of 10 to 6 of 10: hypergeometric, 7 errors among 20 inputs
    exact = stats.hypergeom(20, 7, 10).cdf(1)
    assert rises(bins_of((1, 10), (6, 10))) == pytest.approx(exact)
    assert rises(bins_of((5, 10), (1, 10), (0, 0), (6, 10))) == pytest.approx(2 * exact)


def test_a_fall_is_no_rise_but_a_bump_in_it_is():
    assert rises(error_rates(*draw(3000, 0.15, 0))) > 0.2
    falling = bins_of((300, 1000), (200, 1000), (100, 1000), (50, 1000))
    assert rises(falling) == 1
    bumped = bins_of((300, 1000), (100, 1000), (200, 1000), (50, 1000))
    assert cochran_armitage(bumped) < 1e-6  # the trend alone hides it
    assert rises(bumped) < 1e-6


def test_the_test_of_a_rise_holds_its_level():
    null = [rises(error_rates(*draw(300, 0, seed))) for seed in range(400)]
    assert sum(value <= 0.05 for value in null) <= 36


def test_no_errors_show_no_trend():
    assert cochran_armitage(error_rates(torch.rand(50), torch.zeros(50))) == 1
    assert rises(error_rates(torch.rand(50), torch.zeros(50))) == 1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: upper_bound(3, 2, 0.9), "expected 0 <= events <= n; got 3 of 2"),
        (lambda: interval(1, 2, 95), "confidence"),
        (lambda: error_rates(torch.rand(3), torch.zeros(3), [0, 0.5]), "edges: expected ascending"),
        (lambda: error_rates(torch.rand(3), torch.zeros(2)), "errors: expected one per p-value"),
        (lambda: error_rates(torch.full((3,), torch.nan), torch.zeros(3)), "p-values: expected numbers in"),
        (lambda: rises(error_rates(torch.ones(3), torch.zeros(3))), "trend: expected at least two bins"),
    ],
)
def test_bad_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
