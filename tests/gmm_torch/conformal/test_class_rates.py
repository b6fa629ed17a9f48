import pytest
import torch
from scipy import stats

from gmm_torch.conformal.class_rates import class_rates, homogeneity
from gmm_torch.testing.binomial import interval


def draw(rates, n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(len(rates), (n,), generator=generator)
    return torch.rand(n, generator=generator) < torch.tensor(rates)[prediction], prediction


def test_counts_by_hand():
    first, second = class_rates(torch.tensor([1, 0, 1, 0, 0]), torch.tensor([7, 2, 7, 7, 2]))
    assert (first.name, first.n, first.n_refused, first.rate) == (2, 2, 0, 0)
    assert (second.name, second.n, second.n_refused) == (7, 3, 2)
    assert second.interval == interval(2, 3)


def test_with_many_inputs_it_is_the_chi_squared_test():
    rates = class_rates(*draw([0.2, 0.25, 0.22], n=3000))
    table = [[each.n_refused, each.n - each.n_refused] for each in rates]
    expected = stats.chi2_contingency(table, correction=False).pvalue
    assert homogeneity(rates) == pytest.approx(expected, abs=5 * (expected / 9999) ** 0.5)


def test_with_two_classes_it_is_close_to_fishers_exact_test():
    rates = class_rates(torch.tensor([1, 1, 1, 0, 0, 0, 0, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    assert homogeneity(rates) == pytest.approx(stats.fisher_exact([[3, 1], [1, 3]]).pvalue, abs=0.02)


def test_one_class_with_all_the_refusals_is_found_and_equal_rates_are_not():
    assert homogeneity(class_rates(*draw([0.3, 0.02, 0.02]))) == 1 / 10_000
    p = [homogeneity(class_rates(*draw([0.05] * 5, n=200, seed=seed)), n_draws=199) for seed in range(400)]
    # a binomial(400, 0.05) exceeds 36 once in 3000 tries; the seeds are fixed
    assert sum(value <= 0.05 for value in p) <= 36


def test_nothing_refused_shows_nothing():
    assert homogeneity(class_rates(torch.zeros(9), torch.arange(9) % 3)) == 1
    assert homogeneity(class_rates(torch.ones(9), torch.arange(9) % 3)) == 1


def test_bad_shapes_are_refused_in_words():
    with pytest.raises(ValueError, match="refused and prediction: expected one of each per input"):
        class_rates(torch.zeros(3), torch.zeros(2))
