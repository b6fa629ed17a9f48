import pytest
import torch
from scipy import stats

from gmm_torch.evaluation.error_rates import EDGES, RateBin, cochran_armitage, error_rates, rises


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


def test_every_input_is_in_one_bin():
    p, errors = draw(500, 0.1, 0)
    bins = error_rates(p, errors)
    assert sum(each.n for each in bins) == 500
    assert sum(each.n_errors for each in bins) == int(errors.sum())
    assert [each.low for each in bins] == list(EDGES[:-1])


def test_an_empty_bin_says_so():
    assert error_rates(torch.ones(3), torch.zeros(3), [0, 0.5, 1])[0].rate is None
    assert error_rates(torch.ones(3), torch.zeros(3), [0, 0.5, 1])[0].interval == (0, 1)


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


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="edges: expected ascending"):
        error_rates(torch.rand(3), torch.zeros(3), [0, 0.5])
    with pytest.raises(ValueError, match="errors: expected one per p-value"):
        error_rates(torch.rand(3), torch.zeros(2))
    with pytest.raises(ValueError, match="p-values: expected numbers in"):
        error_rates(torch.full((3,), torch.nan), torch.zeros(3))
    with pytest.raises(ValueError, match="trend: expected at least two bins"):
        cochran_armitage(error_rates(torch.ones(3), torch.zeros(3)))
