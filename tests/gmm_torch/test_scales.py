"""Units of the data: a fit is right at any scale that its type can describe, and refused before work at others."""

import functools
import math

import pytest
import torch
from torch import Tensor

from gmm_torch import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical", {"name": "low_rank", "rank": 2})
pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")
each_type = pytest.mark.parametrize("covariance_type", TYPES)
# Decimal exponents of the data's scale.
RIGHT = {torch.float32: (-29, -20, -10, 10, 19, 25, 36), torch.float64: (-288, -160, -80, 80, 154, 160, 300)}
REFUSED = {torch.float32: (-44, -38, -33, 37), torch.float64: (-320, -307, -295, 307)}
SCALES = [(dtype, exponent) for dtype, exponents in RIGHT.items() for exponent in exponents]


def base(dtype: torch.dtype) -> Tensor:
    """Three clusters (90, 3), as the type holds them, in float64."""
    x = torch.randn(90, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:30] += 5
    x[30:60, 0] -= 5
    return x.to(dtype).double()


def fit(x: Tensor, covariance_type: str, dtype: torch.dtype, **options: object) -> GaussianMixture:
    mixture = GaussianMixture(3, x.shape[1], covariance_type, dtype=dtype)
    return mixture.fit(x, means_init=x[[0, 40, 70]], max_iter=6, tol=0.0, **options)


@functools.cache
def unscaled_fit(covariance_type: int, dtype: torch.dtype, offset: float) -> tuple[Tensor, GaussianMixture]:
    """Points that `dtype` holds, in float64, and their mixture."""
    x = base(dtype)
    if offset:
        x = (x + offset).to(dtype).double()
    return x, fit(x, TYPES[covariance_type], torch.float64)


def numbers(mixture: GaussianMixture) -> list[Tensor]:
    return [mixture.weights, mixture.means, mixture.covariances, mixture.dense_covariances, mixture.history]


# Every type at every scale, half of them with an offset, where there is room for one.
@pytest.mark.parametrize(
    ("covariance_type", "dtype", "exponent", "offset"),
    [
        (number, dtype, exponent, 1e3 * ((number + place) % 2) * (exponent <= max(RIGHT[dtype]) - 5))
        for number in range(len(TYPES))
        for place, (dtype, exponent) in enumerate(SCALES)
    ],
    ids=str,
)
def test_a_fit_follows_the_scale_of_the_data(covariance_type, dtype, exponent, offset):
    unscaled, expected = unscaled_fit(covariance_type, dtype, offset)
    scale = 2.0 ** round(exponent * math.log2(10))
    x = (unscaled * scale).to(dtype)
    mixture = fit(x, TYPES[covariance_type], dtype)
    tol = {torch.float32: 5e-3 if offset else 1e-3, torch.float64: 1e-7}[dtype]
    torch.testing.assert_close(
        mixture.log_prob(x).double() + 3 * math.log(scale),
        expected.log_prob(unscaled, missing=True),
        rtol=tol,
        atol=tol,
    )
    torch.testing.assert_close(mixture.history + 3 * math.log(scale), expected.history, rtol=tol, atol=tol)
    torch.testing.assert_close(mixture.means.double() / scale, expected.means, rtol=tol, atol=tol)
    assert not any(value.isnan().any() for value in numbers(mixture))
    assert torch.isfinite(mixture.sample(20)).all()
    torch.testing.assert_close(mixture.predict_proba(x).double(), expected.predict_proba(unscaled), rtol=tol, atol=tol)


@pytest.mark.parametrize(("dtype", "exponent"), [(t, k) for t, ks in REFUSED.items() for k in ks], ids=str)
def test_a_scale_that_the_type_cannot_describe_is_refused(dtype, exponent):
    x = (base(dtype) * 10.0**exponent).to(dtype)
    with pytest.raises(ValueError, match=r"x: expected .*(divide|multiply) the data by a constant"):
        fit(x, "full", dtype)
    if dtype == torch.float32:
        with pytest.raises(ValueError, match=r"or fit a mixture of dtype=torch.float64"):
            fit(x, "full", dtype)
        fit(x.double(), "full", torch.float64)  # as the error says


@each_type
@pytest.mark.parametrize("exponent", [-30, -12, 12, 30])
def test_an_absolute_regularisation_is_one_at_any_scale(covariance_type, exponent):
    # Far above the data it is all there is; far below it is nothing, whatever the data's own floor is.
    x = base(torch.float64) * 10.0**exponent
    mixture = fit(x, covariance_type, torch.float64, reg_mode="absolute", reg_covar=1e-6)
    assert all(torch.isfinite(value).all() for value in numbers(mixture))
    if exponent < 0:
        expected = 1e-6 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
        atol = (
            5e-8 if covariance_type == {"name": "low_rank", "rank": 2} else 1e-12
        )  # whose EM gives up its first loadings slowly
        torch.testing.assert_close(mixture.dense_covariances, expected, rtol=1e-6, atol=atol)


# Every type at every size, in one of the formats; every format at every size and with every type.
@pytest.mark.parametrize(
    ("covariance_type", "size", "dtype"),
    [
        (covariance_type, size, (torch.float32, torch.float64)[(number + place) % 2])
        for number, covariance_type in enumerate(TYPES)
        for place, size in enumerate([1e-20, 1.0, 1e20, 1e30])
    ],
    ids=str,
)
def test_constant_features_single_points_and_duplicates_leave_no_nan(covariance_type, dtype, size):
    generator = torch.Generator().manual_seed(0)
    varied = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    constant = torch.full((60, 1), size, dtype=torch.float64)
    nearly = constant * (1 + torch.finfo(dtype).eps * (torch.arange(60)[:, None] % 2))
    cases = {
        "beside": torch.cat([varied, constant], 1),
        "nearly": torch.cat([varied, nearly], 1),
        "constant": constant.expand(60, 2),
        "one point": constant[:1].expand(1, 2),
        "two points": torch.cat([-constant[:2], constant[:2]], 1) * torch.tensor([[1], [3]]),
        "duplicates": (varied[:3] * size).repeat(20, 2),
        "k is n": varied[:4].expand(4, 2) * size,
    }
    for name, x in cases.items():
        x = x.to(dtype)
        k = min(len(x), 4)
        mixture = GaussianMixture(k, 2, covariance_type, dtype=dtype).fit(x, max_iter=5)
        found = [*numbers(mixture), mixture.log_prob(x), mixture.predict_proba(x), mixture.sample(5)]
        assert not any(value.isnan().any() for value in found), name
        assert torch.isfinite(mixture.log_prob(x)).all(), name


@each_type
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_point_beyond_all_distances_has_the_least_density_and_no_nan(covariance_type, dtype):
    mixture = fit(base(dtype).to(dtype), covariance_type, dtype)
    far = torch.finfo(dtype).max * torch.tensor([[1.0, -1.0, 0.5], [0.0, 1e-3, 0.0]], dtype=dtype)
    density = mixture.log_prob(far)
    assert (density < -1e30).all()
    assert torch.isfinite(density).all()
    assert torch.isfinite(mixture.predict_proba(far)).all()
    bad = far.clone()
    bad[0, 1] = torch.nan
    assert mixture.log_prob(bad).isnan().tolist() == [True, False]


@pytest.mark.parametrize("exponent", [-280, -100, 100, 290])
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_missing_features_at_any_scale(covariance_type, exponent):
    unscaled, scale = base(torch.float64), 2.0 ** round(exponent * math.log2(10))
    unscaled[torch.rand(90, 3, generator=torch.Generator().manual_seed(1)) < 0.2] = torch.nan
    unscaled = unscaled[~unscaled.isnan().all(1)]
    expected, mixture = (
        GaussianMixture(1, 3, covariance_type, dtype=torch.float64).fit(x, missing=True, max_iter=20)
        for x in (unscaled, unscaled * scale)
    )
    torch.testing.assert_close(mixture.means / scale, expected.means, rtol=1e-9, atol=1e-9)
    seen = (~unscaled.isnan()).double().sum(1)
    found = mixture.log_prob(unscaled * scale, missing=True) + seen * math.log(scale)
    torch.testing.assert_close(found, expected.log_prob(unscaled, missing=True), rtol=1e-9, atol=1e-9)
    assert mixture.lower_bound == pytest.approx(expected.lower_bound - float(seen.mean()) * math.log(scale), abs=1e-6)
    imputed = mixture.impute(unscaled * scale) / scale
    torch.testing.assert_close(imputed, expected.impute(unscaled), rtol=1e-9, atol=1e-9)
