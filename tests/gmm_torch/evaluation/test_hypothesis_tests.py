import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from gmm_torch.evaluation.hypothesis_tests import (
    auroc_difference,
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
    ("call", "match"),
    [
        (lambda: compare(torch.zeros(0), torch.ones(2)), "good: expected shape"),
        (lambda: compare(torch.ones(2), torch.tensor([float("nan")])), "1 of 1"),
        (lambda: superiority_interval(0.5, 3, 3, confidence=95), "confidence: expected a number between"),
        (lambda: superiority_interval(float("nan"), 3, 3), "superiority: expected a number in"),
        (lambda: holm([0.1, float("nan")]), r"p-values: expected numbers in \[0, 1\]"),
        (
            lambda: auroc_difference((torch.ones(2), torch.ones(2)), (torch.ones(2), torch.ones(3))),
            "failures: expected two scores of the same inputs; got 2 and 3",
        ),
    ],
)
def test_bad_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


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


def pair(random, n, shift, shared):
    """Two scores of n inputs that share a part of their variance."""
    common, own = random.normal(size=n), random.normal(size=(2, n))
    return tuple(torch.from_numpy(shared**0.5 * common + (1 - shared) ** 0.5 * each + shift) for each in own)


def test_the_difference_is_that_of_the_two_aurocs():
    random = np.random.default_rng(0)
    good, failures = pair(random, 40, 1, 0.5), pair(random, 15, 0, 0.5)
    expected = [probability_of_superiority(good[i], failures[i]) for i in range(2)]
    found = auroc_difference(good, failures)
    assert found.difference == pytest.approx(expected[0] - expected[1])
    assert found.interval[0] < found.difference < found.interval[1]
    turned = auroc_difference(good[::-1], failures[::-1])
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))


@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize("better", [0.0, 0.5])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(shared, better):
    """400 draws: the standard deviation of the coverage is about a point."""
    random = np.random.default_rng(0)
    true = float(torch.special.ndtr(torch.tensor((1 + better) / 2**0.5)) - torch.special.ndtr(torch.tensor(0.5**0.5)))
    held = []
    for _ in range(400):
        good, failures = pair(random, 60, 0, shared), pair(random, 40, 0, shared)
        low, high = auroc_difference((good[0] + 1 + better, good[1] + 1), failures).interval
        held.append(low <= true <= high)
    assert 0.92 <= np.mean(held) <= 0.995


def test_scores_that_go_together_are_told_apart_where_independent_ones_are_not():
    random = np.random.default_rng(1)
    widths = []
    for shared in (0.0, 0.95):
        low, high = auroc_difference(pair(random, 200, 1, shared), pair(random, 100, 0, shared)).interval
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_two_scores_that_are_one_differ_by_next_to_nothing():
    good, failures = (torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (30, 20))
    assert auroc_difference((good, good), (failures, failures)).interval == pytest.approx((0, 0), abs=0.01)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (5, 3)])
def test_a_few_inputs_that_two_scores_separate_leave_the_difference_open(n, m):
    good, failures = torch.ones(n), torch.zeros(m)
    low, high = auroc_difference((good, good), (failures, failures)).interval
    assert low < -0.2
    assert high > 0.2
