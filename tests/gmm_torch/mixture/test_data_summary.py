"""The first pass: merges exactly, and samples independently of the order."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from gmm_torch.mixture.data_summary import DataSummary
from gmm_torch.mixture.sampling import RowKeys, row_keys, sample_rows


@pytest.fixture
def x() -> Tensor:
    return 1e6 + torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def of(x: Tensor, weight: Tensor | None = None, capacity: int = 100, seed: int = 0) -> DataSummary:
    return DataSummary.of(x, weight, capacity, RowKeys(x.shape[1], seed, x.device))


@pytest.mark.parametrize("size", [1, 7, 499])
def test_parts_merge_into_the_whole(x, size):
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, merged = of(x, weight), of(x[:0], weight[:0])
    for part, w in zip(x.split(size), weight.split(size), strict=True):
        merged = merged + of(part, w)
        assert len(merged.kept) <= 150
    # At mean 10^6 a float64 deviation keeps ten digits.
    torch.testing.assert_close(vars(merged), vars(whole), rtol=1e-9, atol=1e-9)
    assert torch.equal(merged.sample()[0], whole.sample()[0])
    torch.testing.assert_close(of(x).mean, x.mean(0), rtol=1e-15, atol=0)
    torch.testing.assert_close(of(x).deviation, x.std(0, correction=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("far", [0.0, 1e6])  # at 10^6 many points share a cell
def test_points_that_a_merge_would_drop_are_left_out_early(far):
    x = far + torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    x, keys = torch.cat([x, x[:1000], x[:10]]), RowKeys(3, 0, x.device)
    merged, n_kept = of(x[:300]), 0
    for part in x[300:].split(300):
        summary = DataSummary.of(part, None, 100, keys, merged.last_keys)
        merged, n_kept = merged + summary, n_kept + len(summary.kept)
    whole = of(x)
    for name in ("kept", "kept_weight", "keys", "rows", "count"):
        assert torch.equal(getattr(merged, name), getattr(whole, name)), name
    assert far or n_kept < len(x) / 5


def test_the_sample_depends_only_on_the_points_and_the_seed(x):
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    assert torch.equal(of(x).sample()[0], of(shuffled).sample()[0])
    assert not torch.equal(of(x).sample()[0], of(x, seed=1).sample()[0])
    x = x.float()
    assert torch.equal(of(x).sample()[0], of(x.double()).sample()[0].float())
    keys = row_keys(x, 0)
    assert torch.equal(torch.cat([row_keys(part, 0) for part in x.split(33)]), keys)


@pytest.mark.parametrize(("offset", "n"), [(0, 1000), (1e3, 1000), (1e5, 1000), (1e7, 500)])
def test_the_sample_is_uniform_over_the_points(offset, n):
    x = offset + torch.arange(10_000.0)[:, None]
    sample = of(x, capacity=1000).sample()[0][:, 0] - offset
    assert len(sample) == n
    # Of 1000 draws without replacement, a half holds 500 +- 15; five standard errors.
    assert abs(float((sample < 5000).sum()) - n / 2) < 75


@pytest.mark.parametrize("width", [2, 8, 64])
def test_other_last_digits_give_the_same_sample(width):
    x = 0.5 + torch.randn(20_000, width, generator=torch.Generator().manual_seed(0))
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1
    sample, other = (of(v, capacity=2000).sample()[0] for v in (x, (x * (1 + 2.0**-23 * noise)).float()))
    assert (torch.cdist(sample.double(), other.double()).amin(1) > 1e-4).sum() <= 2


def test_equal_points_add_their_weights_and_others_are_left_out(x):
    summary = of(torch.tensor([[1.0], [2.0], [1.0], [-0.0], [0.0]]), torch.tensor([1.0, 1.0, 0.5, 2.0, 3.0]))
    summary = summary + of(torch.ones(1, 1))
    found = dict(zip(summary.kept[:, 0].tolist(), summary.kept_weight.tolist(), strict=True))
    assert found == {1.0: 2.5, 2.0: 1.0, 0.0: 5.0}
    a, b = of(x, (torch.arange(len(x)) % 2).double()), of(x[1::2])
    assert int(a.count) == 250
    assert torch.equal(a.kept, b.kept)
    bad = x.clone()
    bad[100, 1] = torch.nan
    summary = of(bad[:60]) + of(bad[60:300]) + of(bad[300:])
    assert (int(summary.rows), int(summary.n_bad), int(summary.first_bad)) == (500, 1, 100)
    torch.testing.assert_close(summary.mean, torch.cat([x[:100], x[101:]]).mean(0))


@pytest.mark.parametrize("per_feature", [True, False])
def test_standardisation_is_exact_in_float32_and_centres(x, per_feature):
    x = (x * torch.tensor([1.0, 1e-3, 1e3])).float()
    standardisation = of(x).standardisation(per_feature)
    location, scale = standardisation.location, standardisation.scale
    assert torch.equal(location.float().double(), location)
    assert torch.equal(scale.log2().round(), scale.log2())
    z = standardisation.apply(x, torch.float32).double()
    variance = z.var(0, correction=0)
    if per_feature:
        assert (z.mean(0).abs() < 0.5).all()
        torch.testing.assert_close(variance, standardisation.unit, rtol=1e-4, atol=0)
    else:
        assert len(scale.unique()) == 1
        torch.testing.assert_close(standardisation.unit.mean(), variance.mean(), rtol=1e-4, atol=0)


def test_constant_features_take_the_scale_of_the_others():
    for x, scale in ((torch.tensor([[5.0, -1.0], [5.0, 1.0]]) * 64, 64.0), (torch.full((10, 2), 0.1), 1.0)):
        standardisation = of(x).standardisation(per_feature=True)
        assert standardisation.scale.tolist() == [scale, scale]
        assert standardisation.unit.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("n", [0, 1, 40, 200, 999])
def test_sampled_rows_do_not_depend_on_their_order(n):
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    other = x[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    chosen = sample_rows(x, n)
    assert len(chosen) == len(chosen.unique()) == min(n, 200)
    assert torch.equal(x[chosen], other[sample_rows(other, n)])
    assert torch.equal(chosen, sample_rows(x.double(), n))


def test_equal_rows_and_all_places_are_sampled_alike():
    # Half of the points are equal: a sample holds about half of them. Each p-value fails once in 1000 seeds.
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    x[::2] = 0
    found = torch.tensor([int((sample_rows(x, 200, seed) % 2 == 0).sum()) for seed in range(20)])
    assert stats.binomtest(int(found.sum()), 20 * 200).pvalue > 1e-3
    x = torch.arange(1000.0)[:, None]
    counts = sum(torch.bincount(sample_rows(x, 100, seed) // 100, minlength=10) for seed in range(40))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
