import itertools
import math
import warnings

import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from gmm_torch.evaluation.hypothesis_tests import (
    compare,
    holm,
    kolmogorov_smirnov,
    mann_whitney,
    permutation,
    probability_of_superiority,
    same_distribution,
    superiority_interval,
)


def draw(n, shift, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - shift


def test_every_test_of_three_against_two_is_that_by_hand():
    good, failures = torch.tensor([3.0, 4.0, 5.0]), torch.tensor([1.0, 2.0])
    # of the C(5, 2) = 10 ways to pick the failures' ranks, one is as extreme as {1, 2}
    assert mann_whitney(good, failures) == pytest.approx(1 / 10)
    assert kolmogorov_smirnov(good, failures) == pytest.approx(1 / 10)
    assert permutation(good, failures) == pytest.approx(1 / 10)
    assert probability_of_superiority(good, failures) == 1


def test_all_tests_look_in_the_same_direction():
    good, failures = draw(300, 0, 0), draw(80, 1, 1)
    for test in (mann_whitney, kolmogorov_smirnov, permutation):
        assert test(good, failures) < 1e-3
        assert test(failures, good) > 0.5


def test_ties_count_half():
    assert probability_of_superiority(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])) == 3.5 / 4


def test_the_effect_size_is_the_auroc():
    good, failures = draw(300, 0, 0).round(), draw(80, 1, 1).round()
    truth = torch.cat([torch.ones(300), torch.zeros(80)])
    assert probability_of_superiority(good, failures) == pytest.approx(
        roc_auc_score(truth, torch.cat([good, failures]))
    )


def test_constant_scores_show_nothing():
    good, failures = torch.zeros(50), torch.zeros(7)
    result = compare(good, failures, n_permutations=99)
    assert result.superiority == 0.5
    assert result.mann_whitney_p > 0.4
    assert result.ks_p == 1
    assert result.permutation_p == 1


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5000, 1200), (20000, 3), (331, 317)])
def test_no_sample_size_draws_a_warning(n, m):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare(draw(n, 0, n), draw(m, 1, m))
    assert 0 <= result.ks_p <= 1
    assert 0 <= result.mann_whitney_p <= 1


def test_p_values_are_valid_when_there_is_no_difference():
    p = torch.tensor(
        [
            (mann_whitney(*pair), kolmogorov_smirnov(*pair))
            for pair in ((draw(40, 0, s), draw(25, 0, 1000 + s)) for s in range(400))
        ]
    )
    # at most 5 % below 0.05; a binomial(400, 0.05) exceeds 36 once in 3000 tries, and the seeds are fixed
    assert int((p[:, 0] <= 0.05).sum()) <= 36
    assert int((p[:, 1] <= 0.05).sum()) <= 36


def test_the_permutation_test_repeats_with_its_seed_and_is_never_zero():
    good, failures = draw(200, 0, 0), draw(50, 3, 1)
    assert permutation(good, failures, 99, seed=3) == permutation(good, failures, 99, seed=3) == 1 / 100


@pytest.mark.parametrize(("n_good", "n_failures", "shift"), [(900, 60, 1.0), (300, 10, 1.5), (50, 50, 0.0)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(n_good, n_failures, shift):
    truth = float(stats.norm.cdf(shift / 2**0.5))
    hits = 0
    for seed in range(300):
        estimate = probability_of_superiority(draw(n_good, 0, seed), draw(n_failures, shift, 10_000 + seed))
        low, high = superiority_interval(estimate, n_good, n_failures)
        hits += low <= truth <= high
    assert hits / 300 > 0.90


def test_the_interval_keeps_its_width_at_one_and_stays_inside_the_unit_interval():
    low, high = superiority_interval(1.0, 1000, 3)
    assert 0.3 < low < 0.95
    assert high == 1
    assert superiority_interval(0.0, 1000, 3) == pytest.approx((0, 1 - low))


def test_the_interval_solves_newcombes_equation():
    low, high = superiority_interval(0.8, 30, 20)
    for theta in (low, high):
        extra = (30 + 20) / 2 - 1
        variance = theta * (1 - theta) * (1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / 600
        assert abs(theta - 0.8) == pytest.approx(1.959964 * variance**0.5, rel=1e-4)


def test_holm_steps_down_by_hand():
    # sorted: .01 * 4, .02 * 3, .03 * 2, .5 * 1, then never below the one before
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("good", "failures", "match"),
    [
        (torch.zeros(0), torch.ones(2), "good: expected shape"),
        (torch.ones(2), torch.ones(2, 2), "failures: expected shape"),
        (torch.ones(2), torch.tensor([float("nan")]), "1 of 1"),
    ],
)
def test_bad_samples_are_refused_in_words(good, failures, match):
    with pytest.raises(ValueError, match=match):
        compare(good, failures)


def test_bad_settings_are_refused_in_words():
    with pytest.raises(ValueError, match="confidence: expected a number between"):
        superiority_interval(0.5, 3, 3, confidence=95)
    with pytest.raises(ValueError, match="superiority: expected a number in"):
        superiority_interval(float("nan"), 3, 3)
    with pytest.raises(ValueError, match=r"p-values: expected numbers in \[0, 1\]"):
        holm([0.1, float("nan")])


@pytest.mark.parametrize("sizes", [(1, 6), (6, 1), (1, 1)])
def test_one_input_in_a_sample_is_compared_with_every_exchange(sizes):
    n, m = sizes
    values = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0, 0.0, 2.0])[: n + m]
    good, failures = values[:n], values[n:]
    ranks = stats.rankdata(values.numpy())
    observed = ranks[n:].mean() - ranks[:n].mean()
    below = 0
    exchanges = list(itertools.combinations(range(n + m), m))
    for chosen in exchanges:
        others = [i for i in range(n + m) if i not in chosen]
        below += ranks[list(chosen)].mean() - ranks[others].mean() <= observed + 1e-9
    assert permutation(good, failures, 99) == pytest.approx(below / len(exchanges))


def test_that_two_samples_follow_one_distribution_has_the_p_value_of_all_exchanges():
    values, n = torch.tensor([0.1, 0.4, 0.5, 1.2, 1.9, 2.0, 3.3]), 3
    splits = [list(chosen) for chosen in itertools.combinations(range(7), n)]

    def distance(chosen: list[int]) -> float:
        inside = torch.zeros(7).index_fill(0, torch.tensor(chosen), 1.0)
        return float((inside.cumsum(0) / n - (1 - inside).cumsum(0) / (7 - n)).abs().max())

    for chosen in splits:
        rest = [i for i in range(7) if i not in chosen]
        share = sum(distance(each) >= distance(chosen) - 1e-6 for each in splits) / len(splits)
        assert same_distribution(values[chosen], values[rest]) == pytest.approx(share)


def test_that_two_samples_of_twenty_follow_one_distribution_has_no_p_value_of_the_limit():
    """Gnedenko and Korolyuk 1951: P(D >= k / n) of samples of n each, where 2 k > n."""
    first = torch.arange(20.0)
    exact = 2 * math.comb(40, 20 - 12) / math.comb(40, 20)
    assert same_distribution(first, first + 11.5) == pytest.approx(exact)
    assert stats.ks_2samp(first, first + 11.5, method="asymp").pvalue < 0.6 * exact
