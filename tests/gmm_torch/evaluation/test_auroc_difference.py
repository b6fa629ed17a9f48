import numpy as np
import pytest
import torch

from gmm_torch.evaluation.auroc_difference import auroc_difference
from gmm_torch.evaluation.hypothesis_tests import probability_of_superiority


def draw(random, n, shift, shared):
    """Two scores of n inputs that share a part of their variance."""
    common, own = random.normal(size=n), random.normal(size=(2, n))
    return tuple(torch.from_numpy(shared**0.5 * common + (1 - shared) ** 0.5 * each + shift) for each in own)


def test_the_difference_is_that_of_the_two_aurocs():
    random = np.random.default_rng(0)
    good, failures = draw(random, 40, 1, 0.5), draw(random, 15, 0, 0.5)
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
        good, failures = draw(random, 60, 0, shared), draw(random, 40, 0, shared)
        low, high = auroc_difference((good[0] + 1 + better, good[1] + 1), failures).interval
        held.append(low <= true <= high)
    assert 0.92 <= np.mean(held) <= 0.995


def test_scores_that_go_together_are_told_apart_where_independent_ones_are_not():
    random = np.random.default_rng(1)
    widths = []
    for shared in (0.0, 0.95):
        low, high = auroc_difference(draw(random, 200, 1, shared), draw(random, 100, 0, shared)).interval
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


def test_scores_of_different_inputs_are_refused():
    with pytest.raises(ValueError, match=r"failures: expected two scores of the same inputs; got 2 and 3"):
        auroc_difference((torch.ones(2), torch.ones(2)), (torch.ones(2), torch.ones(3)))
