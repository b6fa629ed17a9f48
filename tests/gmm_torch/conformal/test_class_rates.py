import pytest
import torch

from gmm_torch.conformal.class_rates import class_rates
from gmm_torch.evaluation.binomial import interval


def test_counts_by_hand():
    first, second = class_rates(torch.tensor([1, 0, 1, 0, 0]), torch.tensor([7, 2, 7, 7, 2]))
    assert (first.name, first.n, first.n_refused, first.rate) == (2, 2, 0, 0)
    assert (second.name, second.n, second.n_refused) == (7, 3, 2)
    assert second.interval == interval(2, 3)


def test_bad_shapes_are_refused_in_words():
    with pytest.raises(ValueError, match="refused and prediction: expected one of each per input"):
        class_rates(torch.zeros(3), torch.zeros(2))
