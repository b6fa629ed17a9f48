import math

import pytest
import torch

from gmm_torch.evaluation.betting import BETS, log_wealth_below, rate_interval, weighted_upper_bound

ERRORS = torch.arange(200) < 10


def test_the_wealth_by_hand():
    errors, weights = torch.tensor([True, False]), torch.tensor([0.5, 1.0])
    wealth = sum((1 - c * 0.5) * (1 + c * 0.2 / 0.8) for c in BETS) / len(BETS)
    assert log_wealth_below(errors, weights, 0.2) == pytest.approx(math.log(wealth))


def test_each_bet_is_fair_at_the_rate_and_grows_with_it():
    for rate in (0.1, 0.6):
        outcomes = [log_wealth_below(torch.tensor([error]), torch.ones(1), rate) for error in (False, True)]
        assert (1 - rate) * math.exp(outcomes[0]) + rate * math.exp(outcomes[1]) == pytest.approx(1)
    path = [log_wealth_below(ERRORS, torch.ones(200), rate / 100) for rate in range(100)]
    assert path == sorted(path)


def test_the_bound_is_above_the_rate_falls_with_n_and_does_not_depend_on_the_order():
    bound = weighted_upper_bound(ERRORS, torch.ones(200), 0.9)
    assert 0.05 < bound < 0.12
    assert weighted_upper_bound(ERRORS.repeat(20), torch.ones(4000), 0.9) < 0.065
    assert weighted_upper_bound(ERRORS.flip(0), torch.ones(200), 0.9) == pytest.approx(bound)
    assert weighted_upper_bound(ERRORS, torch.where(ERRORS, 1.0, 0.25), 0.9) > 0.15  # errors that weigh more
    assert weighted_upper_bound(ERRORS[:0], torch.ones(0), 0.9) == 1
    assert weighted_upper_bound(torch.ones(9).bool(), torch.ones(9), 0.9) == 1


def test_an_interval_holds_the_rate_and_narrows():
    low, high = rate_interval(50, 450, 0.95)
    assert 0.05 < low < 0.1 < high < 0.16
    assert rate_interval(0, 0, 0.95) == (0, 1)
    assert rate_interval(0, 50, 0.95)[0] == rate_interval(0, 5, 0.95)[0] == 0
    assert rate_interval(50, 0, 0.95)[1] == 1
    mirrored = rate_interval(450, 50, 0.95)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="errors and weights: expected one bool and one number each"):
        weighted_upper_bound(ERRORS, torch.ones(3), 0.9)
    with pytest.raises(ValueError, match=r"weights: expected numbers in \[0, 1\]"):
        weighted_upper_bound(ERRORS, torch.full((200,), 1.1), 0.9)
    with pytest.raises(ValueError, match="confidence: expected"):
        rate_interval(1, 1, 1.0)
