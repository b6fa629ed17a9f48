"""The first pass: merges exactly, and samples without regard to order."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gmm_torch.mixture.data_summary import DataSummary, Standardisation, sample_capacity
from gmm_torch.mixture.sampling import RowKeys, row_keys


@pytest.fixture
def x() -> Tensor:
    return 1e6 + torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def of(x: Tensor, weight: Tensor | None = None, capacity: int = 100) -> DataSummary:
    return DataSummary.of(x, weight, capacity, RowKeys(x.shape[1], 0, x.device))


def test_mean_and_spread_are_those_of_the_points(x):
    summary = of(x)
    torch.testing.assert_close(summary.mean, x.mean(0), rtol=1e-15, atol=0)
    torch.testing.assert_close(summary.deviation, x.std(0, correction=0), rtol=1e-9, atol=0)
    assert float(summary.largest) == float(x.abs().max())


@pytest.mark.parametrize("size", [1, 7, 499])
def test_parts_merge_into_the_whole(x, size):
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, merged = of(x, weight), of(x[:0], weight[:0])
    for part, w in zip(x.split(size), weight.split(size), strict=True):
        merged = merged + of(part, w)
    # At mean 10^6 a float64 deviation keeps ten digits.
    torch.testing.assert_close(vars(merged), vars(whole), rtol=1e-9, atol=1e-9)
    assert torch.equal(merged.kept, whole.kept)
    assert torch.equal(merged.sample()[0], whole.sample()[0])


@pytest.mark.parametrize("far", [0.0, 1e6])  # at 10^6 many points share a cell
def test_points_that_there_is_no_room_for_are_left_out_early(far):
    x = far + torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    x, keys = torch.cat([x, x[:1000], x[:10]]), RowKeys(3, 0, x.device)
    merged, n_kept = of(x[:300]), []
    for part in x[300:].split(300):
        summary = DataSummary.of(part, None, 100, keys, merged.last_keys)
        merged, n_kept = merged + summary, [*n_kept, len(summary.kept)]
    whole = of(x)
    for name in ("kept", "kept_weight", "keys", "rows", "count"):
        assert torch.equal(getattr(merged, name), getattr(whole, name)), name
    torch.testing.assert_close(merged.mean, whole.mean)
    assert far or sum(n_kept) < len(x) / 5


def test_the_sample_depends_on_the_points_and_the_seed_alone(x):
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    assert torch.equal(of(x).sample()[0], of(shuffled).sample()[0])
    assert not torch.equal(
        of(x).sample()[0], DataSummary.of(x, None, 100, RowKeys(x.shape[1], 1, x.device)).sample()[0]
    )


@pytest.mark.parametrize(("offset", "n"), [(0, 1000), (1e3, 1000), (1e5, 1000), (1e7, 500)])
def test_the_sample_is_uniform_over_the_points(offset, n):
    x = offset + torch.arange(10_000.0)[:, None]
    sample = DataSummary.of(x, None, 1000, RowKeys(x.shape[1], 0, x.device)).sample()[0][:, 0] - offset
    assert len(sample) == n
    # Of 1000 draws without replacement, a half holds 500 +- 15; five standard errors.
    assert abs(float((sample < 5000).sum()) - n / 2) < 75


@pytest.mark.parametrize("width", [2, 8, 64])
def test_other_last_digits_give_the_same_sample(width):
    x = 0.5 + torch.randn(20_000, width, generator=torch.Generator().manual_seed(0))
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1
    sample, other = (of(v, capacity=2000).sample()[0] for v in (x, (x * (1 + 2.0**-23 * noise)).float()))
    moved = torch.cdist(sample.double(), other.double()).amin(1) > 1e-4
    assert moved.sum() <= 2


def test_a_type_that_holds_the_same_points_gives_the_same_sample(x):
    x = x.float()
    assert torch.equal(of(x).sample()[0], of(x.double()).sample()[0].float())


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e8])
def test_no_more_points_are_kept_than_a_sample_and_a_half(offset):
    x = offset + torch.randn(5000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    summary = of(x[:0])
    for part in x.split(500):
        summary = summary + of(part)
        assert len(summary.kept) <= 150


def test_equal_points_are_sampled_once_with_their_summed_weight():
    x = torch.tensor([[1.0], [2.0], [1.0], [-0.0], [0.0]])
    summary = of(x, torch.tensor([1.0, 1.0, 0.5, 2.0, 3.0])) + of(x[:1])
    found = dict(zip(summary.kept[:, 0].tolist(), summary.kept_weight.tolist(), strict=True))
    assert found == {1.0: 2.5, 2.0: 1.0, 0.0: 5.0}


def test_points_of_zero_weight_are_not_there(x):
    weight = torch.ones(len(x))
    weight[::2] = 0
    a, b = of(x, weight), of(x[1::2])
    assert int(a.count) == 250
    torch.testing.assert_close(a.mean, b.mean)
    assert torch.equal(a.kept, b.kept)


def test_bad_rows_are_counted_and_left_out(x):
    clean = torch.cat([x[:100], x[101:]])
    x = x.clone()
    x[100, 1] = torch.nan
    summary = of(x[:60]) + of(x[60:300]) + of(x[300:])
    assert (int(summary.rows), int(summary.n_bad), int(summary.first_bad)) == (500, 1, 100)
    torch.testing.assert_close(summary.mean, clean.mean(0))


def test_keys_are_the_same_in_any_batch_and_differ_between_points(x):
    keys = row_keys(x, 0)
    assert torch.equal(torch.cat([row_keys(part, 0) for part in x.split(33)]), keys)
    assert len(keys[:, 1].unique()) == len(x)


@pytest.mark.parametrize("per_feature", [True, False])
def test_standardisation_is_exact_in_float32_and_centres(x, per_feature):
    x = (x * torch.tensor([1.0, 1e-3, 1e3])).float()
    standardisation = of(x).standardisation(per_feature)
    location, scale = standardisation.location, standardisation.scale
    assert torch.equal(location.float().double(), location)
    assert torch.equal(scale.log2().round(), scale.log2())
    z = standardisation.apply(x, torch.float32)
    if per_feature:
        assert (z.mean(0).abs() < 0.5).all()
        torch.testing.assert_close(z.double().var(0, correction=0), standardisation.unit, rtol=1e-4, atol=0)
    else:
        assert len(scale.unique()) == 1
        assert float(standardisation.unit.mean()) == pytest.approx(
            float(z.double().var(0, correction=0).mean()), rel=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_the_same_in_any_order_of_memory_and_turned_by_a_copy_alone(x, dtype):
    one = torch.ones(3, dtype=torch.float64)
    standardisation, points = Standardisation(1e6 * one, 2 * one, one), x.to(dtype)
    by_feature, by_point = torch.empty(3, 500, dtype=dtype), torch.empty(500, 3, dtype=dtype).mT
    met = []

    class Met(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            met.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    with Met():
        standardisation.columns(points, dtype, out=by_feature)
    assert torch.ops.aten.sub not in met  # it would go through the points against their order
    standardisation.columns(points, dtype, out=by_point)
    assert torch.equal(by_feature, by_point)
    assert torch.equal(by_feature, standardisation.columns(points, dtype))


def test_constant_features_take_the_scale_of_the_others():
    x = torch.tensor([[5.0, -1.0], [5.0, 1.0]]) * 64
    standardisation = of(x).standardisation(per_feature=True)
    assert standardisation.scale.tolist() == [64.0, 64.0]
    assert standardisation.unit.tolist() == [1.0, 1.0]


def test_data_that_is_constant_throughout_has_unit_scale():
    standardisation = of(torch.full((10, 2), 0.1)).standardisation(per_feature=True)
    assert standardisation.scale.tolist() == [1.0, 1.0]
    assert standardisation.unit.tolist() == [1.0, 1.0]


def test_the_capacity_grows_with_the_components():
    assert sample_capacity(1) == 10_000
    assert sample_capacity(1000) >= 100_000
