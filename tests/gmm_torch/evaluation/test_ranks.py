import pytest
import torch

from gmm_torch.evaluation.ranks import unit_ranks


def test_unit_ranks_keep_order_and_ties():
    ranks = unit_ranks(torch.tensor([-1e9, 5.0, 5.0, float("inf"), float("-inf")]))
    assert ranks.tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1, 0])
    assert unit_ranks(torch.zeros(3)).tolist() == [0, 0, 0]
