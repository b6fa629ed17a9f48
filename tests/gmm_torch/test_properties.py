"""What must hold for any data: hypothesis draws the problems."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gmm_torch import ConvergenceWarning, GaussianMixture
from gmm_torch.mixture.covariance import FAMILIES

TYPES = sorted(FAMILIES)
WITH_PRECISIONS = [name for name in TYPES if name != "low_rank"]

pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")
drawn = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Points (N, D) in float64 and K: clusters, ties, constant columns, odd locations and scales."""
    n, d, k = draw(st.integers(6, 60)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    centres = draw(st.sampled_from([0.0, 1.0, 10.0])) * torch.randn(k, d, generator=generator, dtype=torch.float64)
    label = torch.randint(k, (n,), generator=generator)
    x = centres[label] + torch.randn(n, d, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        x = x.round()
    if draw(st.booleans()):
        x[:, 0] = 1.0
    scale = draw(st.sampled_from([1e-4, 1.0, 1e4]))
    return scale * (x + draw(st.sampled_from([0.0, 100.0]))), k


def fit(x: Tensor, k: int, covariance_type: str, **options) -> GaussianMixture:
    mixture = GaussianMixture(k, x.shape[1], covariance_type, dtype=x.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(x, **{"max_iter": 15, "tol": 0.0, **options})


def full_start(x: Tensor, k: int, covariance_type: str, means: Tensor | None = None) -> dict[str, Tensor]:
    """A start that leaves nothing to the assignment of points to the nearest mean, where ties hang on rounding.

    There is none without initial precisions.
    """
    variance = (x - x[0]).var(0, correction=0)  # exactly zero for a constant
    typical = variance[variance > 0].mean() if bool((variance > 0).any()) else torch.ones((), dtype=x.dtype)
    precision = torch.where(variance > 0, variance, typical).reciprocal()
    precisions = {
        "full": torch.diag(precision).repeat(k, 1, 1),
        "tied": torch.diag(precision),
        "diag": precision.repeat(k, 1),
        "spherical": precision.reciprocal().mean().reciprocal().repeat(k),
    }[covariance_type]
    means = spread_out(x, k) if means is None else means
    return {"weights_init": torch.ones(k, dtype=x.dtype), "means_init": means, "precisions_init": precisions}


def spread_out(x: Tensor, k: int) -> Tensor:
    return x[torch.linspace(0, len(x) - 1, k).long()]


def assert_same_density(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def assert_same_mixture(a: GaussianMixture, b: GaussianMixture, scale: Tensor, tolerance: float = 1e-5) -> None:
    """Equal weights, means and covariances, both measured in units of the data's `scale` (D,)."""
    options = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(a.weights.double(), b.weights.double(), **options)
    torch.testing.assert_close(a.means.double() / scale, b.means.double() / scale, **options)
    unit = scale[:, None] * scale
    torch.testing.assert_close(a.dense_covariances.double() / unit, b.dense_covariances.double() / unit, **options)


# ---- monotone


@drawn
@given(
    problem=problems(),
    covariance_type=st.sampled_from(TYPES),
    reg=st.sampled_from([0.0, 1e-6, 1e-2]),
    n_init=st.integers(1, 3),
    init=st.sampled_from(["kmeans", "k-means++", "random", "random_from_data"]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_the_objective_never_falls_and_nothing_is_nan(problem, covariance_type, reg, n_init, init, weighted, dtype):
    x, k = problem
    x = x.to(dtype)
    weight = torch.arange(1, len(x) + 1) / len(x) if weighted else None
    options = {"reg_covar": reg, "n_init": n_init, "init_params": init, "max_iter": 15}
    mixture = fit(x, k, covariance_type, sample_weight=weight, **options)
    rise = mixture.history.diff()
    # The objective is a mean of log-densities computed in `dtype`; its rounding is relative to its size. Variances are
    # float64 differences of moments about the origin, exact to eps of the data's variance: that of a collapsed
    # component, which is the regularisation alone, to eps / reg.
    rounding = {torch.float64: 1e-9, torch.float32: 2e-4}[dtype] * mixture.history.abs().amax().clamp_min(1)
    rounding += 10 * torch.finfo(torch.float64).eps / max(reg, 1e-10)
    assert torch.isfinite(mixture.history).all()
    assert (rise >= -rounding).all()
    for value in (mixture.weights, mixture.means, mixture.dense_covariances, mixture.log_prob(x)):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_dead_component_is_brought_back_where_the_data_has_a_place_for_it(covariance_type):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    x[290:] += 1000
    means = torch.stack([x[0], x[0] + 1e6])
    mixture = fit(x, 2, covariance_type, means_init=means, max_iter=100)
    assert mixture.weights.min() == pytest.approx(10 / 300, rel=1e-3)


# ---- equivariant


@drawn
@given(
    problem=problems(),
    covariance_type=st.sampled_from(WITH_PRECISIONS),
    factors=st.lists(st.sampled_from([1e-3, 0.3, 1.0, 7.0, 1e3]), min_size=5, max_size=5),
)
def test_rescaled_data_gives_the_rescaled_mixture(problem, covariance_type, factors):
    x, k = problem
    x = x + torch.linspace(0, 1, len(x))[:, None] ** torch.arange(1, x.shape[1] + 1) * x.abs().max()  # no constants
    factor = torch.tensor(factors[: x.shape[1]], dtype=torch.float64)
    if not FAMILIES[covariance_type].scales_features:
        factor = factor[0].expand_as(factor)
    a = fit(x, k, covariance_type, max_iter=5, **full_start(x, k, covariance_type))
    b = fit(x * factor, k, covariance_type, max_iter=5, **full_start(x * factor, k, covariance_type))
    assert_same_density(a.log_prob(x), b.log_prob(x * factor) + factor.log().sum())


# ---- weights


@drawn
@given(problem=problems(), covariance_type=st.sampled_from(TYPES), seed=st.integers(0, 1000))
def test_an_integer_weight_is_duplication_and_a_zero_weight_is_dropping(problem, covariance_type, seed):
    x, k = problem
    weight = torch.randint(0, 4, (len(x),), generator=torch.Generator().manual_seed(seed))
    weight[:k] = 1
    repeated = x.repeat_interleave(weight, dim=0)
    a = fit(x, k, covariance_type, sample_weight=weight, max_iter=5)  # from the default start: it is weighted too
    b = fit(repeated, k, covariance_type, max_iter=5)
    torch.testing.assert_close(a.history, b.history, rtol=1e-6, atol=1e-6)
    assert_same_density(a.log_prob(x), b.log_prob(x))
    assert a.score(x, weight) == pytest.approx(b.score(repeated), rel=1e-6, abs=1e-6)


def test_a_weighted_start_is_a_duplicated_one_beyond_the_capacity_of_the_sample():
    x = torch.randn(9_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.randint(0, 3, (len(x),), generator=torch.Generator().manual_seed(1))
    a = fit(x, 4, "full", sample_weight=weight, max_iter=3)
    b = fit(x.repeat_interleave(weight, dim=0), 4, "full", max_iter=3)
    assert_same_density(a.log_prob(x), b.log_prob(x))


def test_many_copies_of_few_points_do_not_crowd_the_rest_out_of_the_start():
    # More copies of each point than initialisation samples.
    x = torch.tensor([[0.0], [10.0], [20.0]]).repeat(20_000, 1)
    mixture = fit(x, 3, "spherical", max_iter=2)
    torch.testing.assert_close(mixture.means.sort(0).values, torch.tensor([[0.0], [10.0], [20.0]]))


# ---- order and batches


@drawn
@given(
    problem=problems(),
    covariance_type=st.sampled_from(WITH_PRECISIONS),
    batch_size=st.integers(1, 30),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_a_loader_in_any_order_gives_the_mixture_of_the_tensor(problem, covariance_type, batch_size, dtype):
    x, k = problem
    x = x.to(dtype)
    ordered = x[x[:, -1].argsort()]
    loader = DataLoader(TensorDataset(ordered, torch.arange(len(x))), batch_size=batch_size)
    options = {"max_iter": 3, "tol": 0.0, **full_start(x, k, covariance_type)}
    a = fit(x, k, covariance_type, **options)
    b = GaussianMixture(k, x.shape[1], covariance_type, dtype=dtype).fit(loader, **options)
    assert_same_density(a.log_prob(x), b.log_prob(x), {torch.float64: 1e-8, torch.float32: 1e-5}[dtype])


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "random"])
def test_the_start_does_not_depend_on_order_or_batches(covariance_type, init):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 3, generator=generator) + 4 * torch.arange(3).repeat_interleave(200)[:, None]
    options = {"init_params": init, "max_iter": 3, "tol": 0.0, "seed": 3}
    whole = GaussianMixture(3, 3, covariance_type).fit(x[torch.randperm(600, generator=generator)], **options)
    by_class = GaussianMixture(3, 3, covariance_type).fit(list(x.split(50)), **options)
    scale = x.double().std(0)
    assert_same_mixture(whole, by_class, scale)
