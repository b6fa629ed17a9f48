import pytest
import torch
from scipy import stats

from gmm_torch.evaluation.homogeneity import homogeneity


def draw(rates, n=400, seed=0):
    """Sizes of groups, and events in each."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(len(rates), (n,), generator=generator)
    event = torch.rand(n, generator=generator) < torch.tensor(rates)[group]
    return torch.bincount(group, minlength=len(rates)), torch.bincount(group[event], minlength=len(rates))


def test_with_many_members_it_is_the_chi_squared_test():
    sizes, events = draw([0.2, 0.25, 0.22], n=3000)
    expected = stats.chi2_contingency(torch.stack([events, sizes - events]), correction=False).pvalue
    assert homogeneity(sizes, events) == pytest.approx(expected, abs=5 * (expected / 9999) ** 0.5)


def test_with_two_groups_it_is_close_to_fishers_exact_test():
    assert homogeneity([4, 0, 4], [3, 0, 1]) == pytest.approx(stats.fisher_exact([[3, 1], [1, 3]]).pvalue, abs=0.02)


def test_one_group_with_all_the_events_is_found_and_equal_rates_are_not():
    assert homogeneity(*draw([0.3, 0.02, 0.02])) == 1 / 10_000
    p = [homogeneity(*draw([0.05] * 5, n=200, seed=seed), n_draws=199) for seed in range(400)]
    # a binomial(400, 0.05) exceeds 36 once in 3000 tries; the seeds are fixed
    assert sum(value <= 0.05 for value in p) <= 36


def test_no_event_or_nothing_else_shows_nothing():
    assert homogeneity([3, 3, 3], [0, 0, 0]) == homogeneity([3, 3, 3], [3, 3, 3]) == homogeneity([9], [2]) == 1
