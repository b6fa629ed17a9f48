import pytest
import torch

from gmm_torch.conformal.discovery_bounds import discovery_bounds

N = 199


def p_values(*ranks):
    return torch.tensor(ranks, dtype=torch.float64) / (N + 1)


CLEAR = torch.cat([p_values(*([1] * 30)), torch.arange(1, 71) / 71.0])  # 30 failures among 100


def test_what_is_bounded_is_never_more_than_there_is():
    bounds = discovery_bounds(CLEAR, N)
    assert bounds.good(torch.zeros(100, dtype=torch.bool)) == 0
    assert bounds.good(torch.arange(100) == 3) <= 1
    assert 70 <= bounds.n_good == bounds.good(torch.ones(100, dtype=torch.bool)) < 100
    failures = torch.arange(100) < 30
    assert bounds.good(failures) < 10
    assert bounds.proportion(failures) == bounds.good(failures) / 30


def test_a_set_that_holds_another_has_no_lower_bound():
    bounds, g = discovery_bounds(CLEAR, N), torch.Generator().manual_seed(0)
    for _ in range(20):
        larger = torch.rand(100, generator=g) < 0.6
        smaller = larger & (torch.rand(100, generator=g) < 0.6)
        assert bounds.good(smaller) <= bounds.good(larger) <= bounds.good(smaller) + int((larger & ~smaller).sum())


def test_many_failures_lower_the_bounds_of_the_others():
    sharper = discovery_bounds(CLEAR, N)
    plain = discovery_bounds(CLEAR, N, selection=True)
    assert (sharper.at_most <= plain.at_most).all()
    assert (sharper.at_most < plain.at_most).any()
    assert plain.n_good == 100


def test_the_largest_choice_with_a_proportion_is_the_largest_threshold():
    bounds = discovery_bounds(CLEAR, N)
    found = bounds.largest(0.25)
    assert 30 <= int(found.sum()) < 60
    assert bounds.proportion(found) <= 0.25
    assert found[:30].all()
    assert not discovery_bounds(torch.linspace(0.3, 1, 40), N).largest(0.25).any()


def test_p_values_in_single_precision_or_integers_say_the_same():
    assert discovery_bounds(CLEAR.float(), N).at_most.tolist() == discovery_bounds(CLEAR, N).at_most.tolist()
    whole = torch.tensor([0, 1, 1])
    assert discovery_bounds(whole, N).at_most.tolist() == discovery_bounds(whole.double(), N).at_most.tolist()


def test_batches_of_one_and_of_many_and_all_failures():
    assert discovery_bounds(p_values(150), N).n_good == 1
    all_failed = discovery_bounds(p_values(*([1] * 300)), N)
    assert all_failed.n_good < 15
    assert discovery_bounds(torch.rand(2000, generator=torch.Generator().manual_seed(0)), 50).n_good == 2000


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="p-values: expected"):
        discovery_bounds(torch.tensor([2.0]), N)
    with pytest.raises(ValueError, match="delta: expected"):
        discovery_bounds(CLEAR, N, delta=1)
    with pytest.raises(ValueError, match="n_calibration: expected at least 1"):
        discovery_bounds(CLEAR, 0)
    with pytest.raises(ValueError, match="chosen: expected one bool per p-value"):
        discovery_bounds(CLEAR, N).good(torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="proportion: expected"):
        discovery_bounds(CLEAR, N).largest(0)
