import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from gmm_torch.evaluation.hypothesis_tests import (
    compare,
    compare_within,
    holm,
    mann_whitney,
)


def draw(n, seed, n_strata=4):
    generator = torch.Generator().manual_seed(seed)
    stratum = torch.randint(n_strata, (n,), generator=generator)
    failure = torch.rand(n, generator=generator) < 0.1 + 0.1 * stratum
    scores = torch.randn(n, generator=generator)
    return scores, failure, stratum


def test_one_stratum_has_the_interval_of_the_comparison_without_strata():
    scores, failure, _ = draw(300, 0)
    found = compare_within(scores, failure, torch.full((300,), 7), confidence=0.9)
    expected = compare(scores[~failure], scores[failure], 0.9)
    good, bad = scores[~failure].numpy(), scores[failure].numpy()
    p = stats.mannwhitneyu(bad, good, alternative="less", method="asymptotic", use_continuity=False).pvalue
    assert found.van_elteren_p == pytest.approx(p)
    assert found.superiority == pytest.approx(expected.superiority)
    assert found.interval == pytest.approx(expected.interval)
    (alone,) = found.strata
    assert (alone.name, alone.n_good, alone.n_failures) == (7, expected.n_good, expected.n_failures)
    assert alone.interval == pytest.approx(expected.interval)
    assert alone.mann_whitney_p == pytest.approx(expected.mann_whitney_p)


def test_every_stratum_is_compared_by_itself_and_corrected_for_their_number():
    scores, failure, stratum = draw(400, 3)
    found = compare_within(scores - 0.5 * failure, failure, stratum)
    for each in found.strata:
        x = (scores - 0.5 * failure)[stratum == each.name]
        wrong = failure[stratum == each.name]
        assert each.mann_whitney_p == pytest.approx(mann_whitney(x[~wrong], x[wrong]))
        assert each.interval == pytest.approx(compare(x[~wrong], x[wrong]).interval)
    assert [s.mann_whitney_p_holm for s in found.strata] == holm([s.mann_whitney_p for s in found.strata])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    truth = float(stats.norm.cdf(0.7 / 2**0.5))
    missed = 0
    for seed in range(400):
        scores, failure, stratum = draw(200, seed)
        low, high = compare_within(scores - 0.7 * failure, failure, stratum, confidence=0.9).interval
        missed += not low <= truth <= high
    # a binomial(400, 0.1) exceeds 63 once in 6000 tries; the seeds are fixed
    assert missed <= 63
    assert missed >= 15  # nor is it far too wide


def test_failures_that_all_score_lower_have_an_interval_up_to_one():
    _, failure, stratum = draw(200, 0)
    found = compare_within(-failure.float(), failure, stratum)
    assert found.superiority == 1
    assert 0.8 < found.interval[0] < found.interval[1] == 1


def test_two_small_strata_agree_with_every_exchange():
    scores = torch.tensor([1.0, 3.0, 4.0, 2.0, 5.0, 5.0, 7.0])
    failure = torch.tensor([1, 0, 0, 1, 0, 1, 0])
    stratum = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    first, second = stats.rankdata([1, 3, 4]) / 4, stats.rankdata([2, 5, 5, 7]) / 5
    observed = first[0] + second[0] + second[2]
    sums = [a + sum(pair) for a in first for pair in itertools.combinations(second, 2)]
    found = compare_within(scores, failure, stratum, n_permutations=20_000)
    assert found.permutation_p == pytest.approx(np.mean(np.array(sums) <= observed + 1e-9), abs=0.01)
    z = (observed - np.mean(sums)) / np.std(sums)
    assert found.van_elteren_p == pytest.approx(stats.norm.cdf(z))
    assert [each.superiority for each in found.strata] == [1.0, pytest.approx((1 + 1 + 0.5 + 1) / 4)]
    assert found.superiority == pytest.approx((2 * 1.0 + 4 * 3.5 / 4) / 6)


def test_hard_and_unusual_classes_alone_convince_only_the_test_without_strata():
    scores, failure, stratum = draw(2000, 1)
    scores = scores - stratum  # the classes with more failures score lower; within a class nothing differs
    assert mann_whitney(scores[~failure], scores[failure]) < 1e-6
    assert compare_within(scores, failure, stratum, n_permutations=199).van_elteren_p > 0.05
    assert compare_within(scores, failure, stratum, n_permutations=199).permutation_p > 0.05


def test_a_difference_within_classes_is_found():
    scores, failure, stratum = draw(2000, 2)
    found = compare_within(scores - 0.7 * failure, failure, stratum, n_permutations=199)
    assert found.van_elteren_p < 1e-6
    assert found.permutation_p == 1 / 200
    assert found.superiority == pytest.approx(float(stats.norm.cdf(0.7 / 2**0.5)), abs=0.04)


def test_p_values_are_valid_when_there_is_no_difference():
    p = [compare_within(*draw(60, seed)).van_elteren_p for seed in range(400)]
    # a binomial(400, 0.05) exceeds 36 once in 3000 tries; the seeds are fixed
    assert sum(value <= 0.05 for value in p) <= 36


def test_strata_without_both_kinds_are_left_out():
    scores, failure, stratum = draw(200, 0)
    more = (
        torch.cat([scores, torch.zeros(5)]),
        torch.cat([failure, torch.ones(5)]),
        torch.cat([stratum, torch.full((5,), 9)]),
    )
    assert compare_within(*more) == compare_within(scores, failure, stratum)


def test_equal_scores_show_nothing():
    _, failure, stratum = draw(100, 0)
    found = compare_within(torch.zeros(100), failure, stratum, n_permutations=99)
    assert (found.van_elteren_p, found.permutation_p, found.superiority) == (1, 1, 0.5)


def test_bad_arguments_are_refused_in_words():
    scores, failure, stratum = draw(10, 0)
    with pytest.raises(ValueError, match="expected at least one with both"):
        compare_within(scores, torch.zeros(10), stratum)
    with pytest.raises(ValueError, match="failure: expected one per score"):
        compare_within(scores, failure[1:], stratum)
    with pytest.raises(ValueError, match="scores: expected numbers"):
        compare_within(scores * torch.nan, failure, stratum)
