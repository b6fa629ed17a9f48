import math

import pytest
import torch

from gmm_torch.conformal.selective import UnattainableRiskError, select_threshold
from gmm_torch.conformal.weighted_selective import select_weighted_threshold

SCORES = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ERRORS = torch.rand(2000, generator=torch.Generator().manual_seed(1)) < 0.4 * (1 - SCORES)
EVEN = torch.zeros(2000)


def test_with_equal_weights_it_is_near_the_exact_one():
    ours = select_weighted_threshold(SCORES, ERRORS, EVEN, 1.0, 0.15)
    exact = select_threshold(SCORES, ERRORS, 0.15, n_candidates=16)
    assert 0 <= ours.threshold - exact.threshold <= 0.15
    assert ours.risk_bound <= 0.15
    assert ours.n_accepted == int((ours.threshold < SCORES).sum())
    assert ours.n_errors == int(ERRORS[ours.threshold < SCORES].sum())


def test_where_hard_inputs_come_more_often_less_is_accepted():
    hard = torch.where(SCORES < 0.5, 1.6, 0.4).log()
    less = select_weighted_threshold(SCORES, ERRORS, hard, 1.6, 0.15)
    more = select_weighted_threshold(SCORES, ERRORS, EVEN, 1.6, 0.15)
    assert less.threshold > more.threshold


def test_only_ratios_to_the_largest_weight_matter_and_not_the_order():
    weights = (1 - SCORES).log()
    first = select_weighted_threshold(SCORES, ERRORS, weights, 1.0, 0.2)
    moved = select_weighted_threshold(SCORES.flip(0), ERRORS.flip(0), weights.flip(0) + math.log(7), 7.0, 0.2)
    assert moved.threshold == first.threshold
    assert moved.risk_bound == pytest.approx(first.risk_bound)


def test_what_can_not_be_had_is_said_with_a_reason():
    with pytest.raises(UnattainableRiskError, match=r"weights are up to 50.*smaller max_weight"):
        select_weighted_threshold(SCORES[:200], ERRORS[:200], EVEN[:200], 50.0, 0.02)
    with pytest.raises(UnattainableRiskError, match="a rate of up to 1"):
        select_weighted_threshold(SCORES, ERRORS, EVEN - torch.inf, 1.0, 0.2)


def test_bad_arguments_are_refused_in_words():
    for weights in (EVEN[:3], EVEN + 1, EVEN * torch.nan):
        with pytest.raises(ValueError, match="log-weights: expected one per score"):
            select_weighted_threshold(SCORES, ERRORS, weights, 1.0, 0.2)
    with pytest.raises(ValueError, match="max_weight: expected"):
        select_weighted_threshold(SCORES, ERRORS, EVEN, 0.0, 0.2)
    with pytest.raises(ValueError, match="errors: expected"):
        select_weighted_threshold(SCORES, ERRORS[:2], EVEN, 1.0, 0.2)
