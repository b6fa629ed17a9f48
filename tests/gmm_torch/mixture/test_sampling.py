import pytest
import torch
from scipy import stats

from gmm_torch.mixture.sampling import sample_rows


@pytest.mark.parametrize("n", [0, 1, 40, 200, 999])
def test_the_sample_is_the_same_rows_in_the_same_order_whatever_the_order_of_the_points(n):
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    other = x[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    chosen = sample_rows(x, n)
    assert len(chosen) == len(chosen.unique()) == min(n, 200)
    assert torch.equal(x[chosen], other[sample_rows(other, n)])
    assert torch.equal(chosen, sample_rows(x.double(), n))
    assert n in (0, 999) or not torch.equal(chosen, sample_rows(x, n, seed=1))


def test_equal_rows_are_drawn_like_others():
    # half of the points are one and the same: a sample holds about half of them, not all or none
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    x[::2] = 0
    found = torch.tensor([int((sample_rows(x, 200, seed) % 2 == 0).sum()) for seed in range(20)])
    assert stats.binomtest(int(found.sum()), 20 * 200).pvalue > 1e-3
    assert found.min() > 60


def test_every_place_is_drawn_as_often_as_every_other():
    x = torch.arange(1000.0)[:, None]
    counts = sum(torch.bincount(sample_rows(x, 100, seed) // 100, minlength=10) for seed in range(40))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
