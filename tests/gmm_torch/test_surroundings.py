"""What surrounds a call must not change its answer: autocast, defaults, modes; nor what form the points come in."""

import copy
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_torch import GaussianMixture
from gmm_torch.mixture import density
from gmm_torch.mixture.batches import as_tensor
from gmm_torch.mixture.covariance import CovarianceType
from gmm_torch.mixture.online import OnlineMixture
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.parameters import Parameters

AVERAGED = ("full", "tied", "diag", "spherical")  # whose statistics can be averaged over a stream
TYPES = (*AVERAGED, {"name": "low_rank", "rank": 2})
pytestmark = pytest.mark.filterwarnings("ignore::gmm_torch.ConvergenceWarning")
each_type = pytest.mark.parametrize("covariance_type", TYPES)


def points(n: int = 150, mean: float = 0.0) -> Tensor:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)) + mean
    x[: n // 2] += 4
    return x


def fitted(covariance_type: CovarianceType = "full") -> GaussianMixture:
    return copy.deepcopy(fitted_once(TYPES.index(covariance_type)))


@cache
def fitted_once(kind: int) -> GaussianMixture:
    return GaussianMixture(2, 3, TYPES[kind]).fit(points(), max_iter=5)


def holes() -> Tensor:
    return points().masked_fill(torch.arange(450).view(150, 3) % 5 == 0, torch.nan)


def follow(covariance_type: CovarianceType) -> Tensor:
    online = OnlineMixture(2, covariance_type if covariance_type in AVERAGED else "full")
    online.update(points())
    online.refit()
    online.update(points())
    return online.mixture.log_prob(points())


VERBS: dict[str, Callable[[GaussianMixture], object]] = {
    "weights": lambda m: m.weights,
    "means": lambda m: m.means,
    "covariances": lambda m: m.covariances,
    "dense_covariances": lambda m: m.dense_covariances,
    "parameters": lambda m: m.parameters_about_location().state_dict(),
    "log_prob": lambda m: m.log_prob(points()),
    "log_joint": lambda m: m.log_joint(points()),
    "score": lambda m: m.score(points()),
    "score weighted": lambda m: m.score(points(), torch.arange(150)),
    "predict": lambda m: m.predict(points()),
    "predict_proba": lambda m: m.predict_proba(points()),
    "sample": lambda m: m.sample(40, 1),
    "rsample": lambda m: m.rsample(40, 1),
    "to_distribution": lambda m: m.to_distribution().log_prob(points()),
    "bic": lambda m: m.bic(points()),
    "aic": lambda m: m.aic(points()),
    "fit": lambda m: m.fit(points(), max_iter=4).state_dict(),
    "fit random": lambda m: m.fit(points(), max_iter=4, init_params="random").state_dict(),
    "set_parameters": lambda m: m.set_parameters(m.weights, m.means, m.covariances).state_dict(),
    "marginal": lambda m: m.marginal([0, 2]).state_dict(),
    "condition": lambda m: m.condition([1], torch.tensor([0.5])).state_dict(),
    "missing.fit": lambda m: m.fit(holes(), missing=True, max_iter=4).state_dict(),
    "missing.log_prob": lambda m: m.log_prob(holes(), missing=True),
    "missing.impute": lambda m: m.impute(holes()),
    "partial_fit": lambda m: (
        m.partial_fit(points()).partial_fit(points()).state_dict() if m.covariance_type in AVERAGED else None
    ),
    "online mixture": lambda m: follow(m.covariance_type),
}


# Every verb of every type, in one of the formats; every verb and every type in both.
@pytest.mark.parametrize(
    ("covariance_type", "verb", "dtype"),
    [
        (covariance_type, verb, (torch.bfloat16, torch.float16)[(number + place) % 2])
        for number, verb in enumerate(VERBS)
        for place, covariance_type in enumerate(TYPES)
    ],
    ids=str,
)
def test_no_verb_computes_under_autocast(covariance_type, verb, dtype):
    expected = VERBS[verb](fitted(covariance_type))
    mixture = fitted(covariance_type)
    with torch.autocast("cpu", dtype=dtype):
        actual = VERBS[verb](mixture)
    if expected is not None:
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@each_type
def test_a_gradient_is_not_computed_under_autocast(covariance_type):
    mixture, found = fitted(covariance_type), []
    for enabled in (False, True):
        x = points().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            density = mixture.log_prob(x)
        density.sum().backward()  # outside, as torch asks
        found.append(x.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_an_implicit_gradient_is_not_computed_under_autocast():
    mixture = fitted()
    found = []
    for enabled in (False, True):
        x = points().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            covariances = mixture.implicit_fit(x).covariances
        covariances.sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


# ---- verbs that set parameters end a stream

SETTERS: dict[str, Callable[[GaussianMixture], object]] = {
    "missing.fit": lambda m: m.fit(points(mean=100.0), missing=True),
    "assign": lambda m: m.assign(
        Parameters(
            torch.full((2,), 0.5).log(), points(mean=100.0)[[0, -1]], {"factor": torch.eye(3).expand(2, 3, 3).clone()}
        ),
        torch.zeros(3),
    ),
    "fit": lambda m: m.fit(points(mean=100.0)),
    "adopt": lambda m: m.adopt(done_em(m)),
    "set_parameters": lambda m: m.set_parameters(
        torch.full((2,), 0.5), points(mean=100.0)[[0, -1]], torch.eye(3).expand(2, 3, 3)
    ),
    "load_state_dict": lambda m: m.load_state_dict(GaussianMixture(2, 3).fit(points(mean=100.0)).state_dict()),
}


def done_em(mixture: GaussianMixture) -> object:
    em = mixture.start_em(EMOptions(max_iter=3))
    while not em.done:
        em.advance(em.collect([(points(mean=100.0), None)]))
    return em


@pytest.mark.parametrize("name", SETTERS)
def test_setting_parameters_ends_the_stream(name):
    mixture = GaussianMixture(2, 3)
    for _ in range(5):
        mixture.partial_fit(points())
    SETTERS[name](mixture)
    mixture.partial_fit(points(mean=100.0))
    assert (mixture.means - 100).abs().max() < 10


def test_a_stream_goes_on_where_nothing_is_set():
    mixture, other = (GaussianMixture(2, 3) for _ in range(2))
    follower = other.start_online()
    for seed in range(4):
        x = points(mean=float(seed))
        mixture.partial_fit(x)
        follower.update(x)
    torch.testing.assert_close(mixture.means, other.assign(*follower.result()).means, rtol=0, atol=0)


# ---- forms of points

FORMS: dict[str, Callable[[np.ndarray], object]] = {
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "negative strides": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "columns first": np.asfortranarray,
    "every other": lambda x: np.repeat(x, 2, 0)[::2],
    "longdouble": lambda x: x.astype(np.longdouble),
    "nothing masked": np.ma.masked_invalid,
    "matrix": np.asmatrix,
    "transposed tensor": lambda x: torch.from_numpy(x.T.copy()).T,
    "batches of arrays": lambda x: [x[:70].astype(x.dtype.newbyteorder(">")), x[70:]],
    "tuples": lambda x: [(torch.from_numpy(x[:70].copy()), 3), (torch.from_numpy(x[70:].copy()), 4)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fit_does_not_depend_on_the_form_of_its_points(form, dtype):
    x = points().numpy().astype(dtype)
    expected = GaussianMixture(2, 3).fit(torch.from_numpy(x), max_iter=4)
    actual = GaussianMixture(2, 3).fit(FORMS[form](x), max_iter=4)
    torch.testing.assert_close(actual.log_prob(points()), expected.log_prob(points()), rtol=1e-5, atol=1e-5)


class Table:
    """Gives an array when asked, and iterates over something else, as a table of pandas does."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.values

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b", "c"])


def test_read_only_arrays_and_tables_are_points():
    x = points().numpy()
    expected = GaussianMixture(2, 3).fit(points(), max_iter=4).means
    frozen = x.copy()
    frozen.setflags(write=False)
    for source in (frozen, Table(x)):
        torch.testing.assert_close(GaussianMixture(2, 3).fit(source, max_iter=4).means, expected, rtol=0, atol=0)


def test_half_precision_arrays_are_points():
    x = points().numpy().astype(np.float16)
    expected = GaussianMixture(2, 3).fit(torch.from_numpy(x).float(), max_iter=4)
    torch.testing.assert_close(GaussianMixture(2, 3).fit(x, max_iter=4).means, expected.means)


def test_weights_come_in_any_form():
    weight = np.arange(150, dtype=np.float64) + 1
    expected = GaussianMixture(2, 3).fit(points(), max_iter=4, sample_weight=torch.from_numpy(weight)).means
    for form in (weight.astype(">f8"), weight.astype(">i4"), weight[::-1].copy()[::-1], weight.tolist()):
        actual = GaussianMixture(2, 3).fit(points(), max_iter=4, sample_weight=form).means
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


REFUSED: dict[str, tuple[Callable[[np.ndarray], object], type[Exception], str]] = {
    "masked": (lambda x: np.ma.masked_less(x, 0), ValueError, r"without masked values.*missing=True"),
    "integers": (lambda x: x.astype(np.int64), TypeError, r"got int64: .* with \.astype\('float32'\)"),
    "objects": (lambda x: x.astype(object), TypeError, "expected floating point; got object"),
    "complex": (lambda x: x.astype(np.complex64), TypeError, "expected floating point; got complex64"),
    "lists": (lambda x: x.tolist(), TypeError, "expected a tensor or an array"),
    "sparse": (lambda x: torch.from_numpy(x).to_sparse(), TypeError, "expected a dense tensor"),
    "float8": (lambda x: torch.from_numpy(x).to(torch.float8_e5m2), TypeError, "expected floating point"),
    "a number": (lambda x: 3.0, TypeError, "expected a tensor, an array or an iterable of batches; got float"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_read_is_refused_in_our_words(form):
    make, error, message = REFUSED[form]
    with pytest.raises(error, match=message):
        GaussianMixture(2, 3).fit(make(points().numpy()))


def test_streams_and_missing_features_take_arrays_too():
    x = points().numpy().astype(">f4")
    streamed = [GaussianMixture(2, 3).partial_fit(form) for form in (x, points())]
    torch.testing.assert_close(streamed[0].means, streamed[1].means, rtol=0, atol=0)
    filled = [GaussianMixture(2, 3).fit(form, missing=True) for form in (x, points())]
    torch.testing.assert_close(filled[0].means, filled[1].means, rtol=0, atol=0)
    torch.testing.assert_close(filled[0].log_prob(x, missing=True), filled[0].log_prob(points(), missing=True))


READERS: dict[str, Callable[[GaussianMixture, object], object]] = {
    **{
        name: lambda mixture, x, name=name: getattr(mixture, name)(x)  # type: ignore[misc]
        for name in ("log_joint", "log_prob", "score", "predict_proba", "predict", "bic", "aic", "impute", "forward")
    },
    "log_prob, missing": lambda mixture, x: mixture.log_prob(x, missing=True),  # type: ignore[arg-type]
    "partial_fit": lambda mixture, x: copy.deepcopy(mixture).partial_fit(x).means,  # type: ignore[arg-type]
    "fit, missing": lambda mixture, x: copy.deepcopy(mixture).fit(x, missing=True, max_iter=2).means,
    "implicit_fit": lambda mixture, x: mixture.implicit_fit(x).means,  # type: ignore[arg-type]
}


@cache
def of_a_tensor(verb: str) -> object:
    return READERS[verb](fitted(), points())


@pytest.mark.parametrize("form", [*(form for form in FORMS if form != "batches of arrays"), "table"])
@pytest.mark.parametrize("verb", READERS)
def test_every_verb_takes_the_forms_of_points_that_a_fit_takes_and_returns_tensors(verb, form):
    x, mixture = points().numpy(), fitted()
    if form == "tuples":
        with pytest.raises(TypeError, match=r"x: expected a tensor or an array.*got list"):
            READERS[verb](mixture, FORMS[form](x))
        return
    expected, actual = of_a_tensor(verb), READERS[verb](mixture, FORMS.get(form, Table)(x))
    assert type(actual) is type(expected)
    torch.testing.assert_close(actual, expected, check_dtype=False, rtol=1e-4, atol=1e-4)


def test_weights_of_points_may_be_arrays_for_every_verb_that_takes_them():
    mixture, weight = GaussianMixture(2, 3).fit(points(), max_iter=4), np.arange(150.0) + 1
    for verb in (
        mixture.score,
        lambda x, w: copy.deepcopy(mixture).partial_fit(x, w).means,
    ):
        expected, actual = (verb(points(), w) for w in (torch.from_numpy(weight), weight))
        torch.testing.assert_close(actual, expected)


def test_known_values_of_a_condition_may_be_an_array():
    mixture = GaussianMixture(2, 3).fit(points(), max_iter=4)
    expected, actual = (mixture.condition([0], value) for value in (torch.tensor([0.5]), np.array([0.5])))
    torch.testing.assert_close(actual.means, expected.means)


def test_a_memory_map_is_read_in_parts(tmp_path, monkeypatch):
    """What is on its way to the device at once is bounded, whatever the map holds."""
    x = points().numpy()
    mixture = GaussianMixture(2, 3).fit(x, max_iter=4)
    expected = mixture.log_prob(points())
    np.save(tmp_path / "x.npy", x)
    brought: list[int] = []
    monkeypatch.setattr(density, "ROWS", 40)
    monkeypatch.setattr(density, "as_tensor", lambda part: brought.append(len(part)) or as_tensor(part))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    torch.testing.assert_close(mixture.log_prob(mapped), expected)
    assert brought == [40, 40, 40, 30]
    torch.testing.assert_close(mixture.log_prob(mapped, missing=True), expected.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixture.impute(mapped), points())
    assert max(brought) == 40
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3\); got \(150, 2\)"):  # of the map, not of a part
        mixture.log_prob(mapped[:, :2])


# ---- modes and defaults


def everything(covariance_type: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Results of the verbs that make tensors, from points that were made before."""
    x = POINTS.to(dtype)
    found = []
    for init in ("kmeans", "random", "random_from_data"):
        mixture = GaussianMixture(2, 3, covariance_type, device="cpu", dtype=dtype)
        mixture.fit(x, max_iter=3, init_params=init, n_init=2)
        found += [mixture.log_prob(x), mixture.history, mixture.covariances, mixture.sample(5, 0)]
    if covariance_type in AVERAGED:
        found.append(mixture.partial_fit(x).partial_fit(x).means)
    found.append(mixture.fit(HOLES.to(dtype), missing=True, max_iter=2).means)
    found.append(mixture.impute(HOLES.to(dtype)))
    found.append(mixture.set_parameters(mixture.weights, mixture.means, mixture.covariances).log_prob(x))
    return [value.detach() for value in found]


POINTS, HOLES = points(), holes()


@each_type
def test_the_default_device_and_type_decide_where_nothing_else_was_asked_for(covariance_type):
    expected = everything(covariance_type)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        actual = everything(covariance_type)
        plain = GaussianMixture(2, 3, covariance_type)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert {value.device.type for value in plain.state_dict().values()} == {"meta"}
    assert plain.means.dtype == torch.float64


@each_type
def test_what_is_made_in_inference_mode_can_be_used_outside(covariance_type):
    with torch.inference_mode():
        mixture = GaussianMixture(2, 3, covariance_type).fit(points(), max_iter=3)
        if covariance_type in AVERAGED:
            mixture.partial_fit(points())
    expected = mixture.log_prob(points())
    x = points().requires_grad_()
    mixture.requires_grad_()
    mixture.log_prob(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(mixture.centred_means.grad).all()
    mixture.requires_grad_(False)
    torch.testing.assert_close(mixture.log_prob(points()), expected)
    if covariance_type in AVERAGED:
        mixture.partial_fit(points())
    mixture.fit(points(), max_iter=3)
    mixture.fit(holes(), missing=True, max_iter=2)


@each_type
def test_numbers_that_are_flushed_to_zero_change_nothing(covariance_type):
    expected = everything(covariance_type, torch.float64)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        actual = everything(covariance_type, torch.float64)
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
