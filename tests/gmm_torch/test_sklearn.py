import contextlib
import importlib.util
import io
import pickle
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
import sklearn.mixture
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import parametrize_with_checks

from gmm_torch.sklearn import GaussianMixture

ROOT = Path(__file__).parents[2]
TYPES = ("full", "tied", "diag", "spherical")
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")

every_type = pytest.mark.parametrize("covariance_type", TYPES)


def blobs(n=300, d=3, k=3, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=6, size=(k, d))
    label = rng.integers(k, size=n)
    return (centres[label] + rng.normal(size=(n, d))).astype(dtype)


def initial_values(x, n_components, covariance_type, seed=0):
    """Weights, means and precisions to start from: points of x, and correlated precisions around its own."""
    rng = np.random.default_rng(seed)
    k, d = n_components, x.shape[1]
    precisions = {
        "spherical": (shape := rng.uniform(0.2, 1, size=k)),
        "diag": rng.uniform(0.2, 1, size=(k, d)),
        "full": (full := np.eye(d) * shape[:, None, None] + 0.1 * rng.normal(size=(k, d, 1)) ** 2),
        "tied": full[0],
    }
    symmetric = precisions[covariance_type]
    if covariance_type in ("full", "tied"):
        symmetric = (symmetric + np.swapaxes(symmetric, -1, -2)) / 2
    means = x[rng.choice(len(x), size=k, replace=False)]
    return {"weights_init": rng.dirichlet(np.full(k, 5.0)), "means_init": means, "precisions_init": symmetric}


@parametrize_with_checks(
    [GaussianMixture()]
    + [GaussianMixture(2, covariance_type=name, init_params="k-means++", n_init=2) for name in TYPES]
    + [GaussianMixture(2, dtype="float32", warm_start=True)]
)
def test_passes_every_estimator_check(estimator, check):
    check(estimator)


# ---- the same as scikit-learn's


def test_constructor_has_scikit_learns_parameters_and_defaults_and_two_of_its_own():
    theirs = sklearn.mixture.GaussianMixture().get_params()
    assert GaussianMixture().get_params() == theirs | {"device": None, "dtype": None}


@every_type
def test_fit_from_the_same_start_ends_in_scikit_learns_parameters(covariance_type):
    x = blobs(d=4)
    options = {"n_components": 3, "covariance_type": covariance_type, "tol": 1e-8, "max_iter": 500}
    options |= initial_values(x, 3, covariance_type)
    ours = GaussianMixture(**options).fit(x)
    theirs = sklearn.mixture.GaussianMixture(**options).fit(x)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_
    assert theirs.converged_
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-5)
    for name in ATTRIBUTES:
        mine, expected = getattr(ours, name), getattr(theirs, name)
        assert type(mine) is np.ndarray
        assert mine.shape == expected.shape
        assert mine.dtype == expected.dtype
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-7)
    new = blobs(50, d=4, seed=1)
    np.testing.assert_allclose(ours.score_samples(new), theirs.score_samples(new), rtol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(new), theirs.predict_proba(new), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))
    for criterion in ("score", "bic", "aic"):
        mine = getattr(ours, criterion)(new)
        assert isinstance(mine, float)
        assert mine == pytest.approx(getattr(theirs, criterion)(new), rel=1e-5)


@every_type
def test_max_iter_zero_keeps_the_initial_values(covariance_type):
    x = blobs()
    initial = initial_values(x, 3, covariance_type)
    mixture = GaussianMixture(3, covariance_type=covariance_type, max_iter=0, **initial).fit(x)
    np.testing.assert_allclose(mixture.weights_, initial["weights_init"])
    np.testing.assert_allclose(mixture.means_, initial["means_init"])
    np.testing.assert_allclose(mixture.precisions_, initial["precisions_init"])
    assert (mixture.n_iter_, mixture.lower_bounds_, mixture.converged_) == (0, [], False)
    assert mixture.lower_bound_ == -np.inf


@every_type
def test_precisions_cholesky_is_the_upper_triangular_factor(covariance_type):
    mixture = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(blobs())
    factor = mixture.precisions_cholesky_
    if covariance_type in ("full", "tied"):
        np.testing.assert_array_equal(factor, np.triu(factor))
        np.testing.assert_allclose(factor @ np.swapaxes(factor, -1, -2), np.linalg.inv(mixture.covariances_))
    else:
        np.testing.assert_allclose(factor**2, 1 / mixture.covariances_)
    diagonal = np.diagonal(factor, axis1=-2, axis2=-1) if covariance_type in ("full", "tied") else factor
    assert (diagonal > 0).all()


@every_type
def test_own_start_given_as_initial_values_leads_to_the_same_fit(covariance_type):
    x = blobs(seed=3)
    options = {"n_components": 3, "covariance_type": covariance_type, "random_state": 5}
    start = GaussianMixture(**options, max_iter=0).fit(x)
    given = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
    with_start, without = GaussianMixture(**options, **given).fit(x), GaussianMixture(**options).fit(x)
    assert with_start.n_iter_ == without.n_iter_
    np.testing.assert_allclose(with_start.precisions_cholesky_, without.precisions_cholesky_)


@every_type
def test_a_fitted_mixture_goes_to_scikit_learn_and_back_without_loss(covariance_type):
    x = blobs()
    ours = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(x)
    theirs = ours.to_sklearn()
    assert type(theirs) is sklearn.mixture.GaussianMixture
    np.testing.assert_allclose(theirs.score_samples(x), ours.score_samples(x), rtol=1e-9)
    theirs.means_ += 1  # the copy is its own
    theirs.means_ -= 1
    back = GaussianMixture.from_sklearn(theirs)
    assert back.get_params() == ours.get_params()
    for name in ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_features_in_"):
        assert getattr(back, name) == getattr(ours, name)
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(back, name), getattr(ours, name), rtol=1e-9)


def test_a_hand_made_scikit_learn_mixture_is_taken_over():
    theirs = sklearn.mixture.GaussianMixture(2, covariance_type="diag")
    theirs.weights_, theirs.means_ = np.array([0.25, 0.75]), np.array([[0.0, 0.0], [3.0, -1.0]])
    theirs.precisions_cholesky_ = np.array([[1.0, 2.0], [0.5, 1.0]])
    x = blobs(d=2)
    ours = GaussianMixture.from_sklearn(theirs)
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x))
    np.testing.assert_allclose(ours.covariances_, theirs.precisions_cholesky_**-2.0)


def test_an_unfitted_mixture_is_converted_unfitted():
    assert not hasattr(GaussianMixture(4, tol=0.1).to_sklearn(), "means_")
    ours = GaussianMixture.from_sklearn(sklearn.mixture.GaussianMixture(4, tol=0.1), dtype="float32")
    assert (ours.n_components, ours.tol, ours.dtype) == (4, 0.1, "float32")
    with pytest.raises(NotFittedError):
        ours.predict(blobs())


# ---- fitting


def test_the_best_of_several_restarts_is_kept():
    x = blobs(k=6, seed=2)
    single = [GaussianMixture(6, random_state=s, init_params="random", max_iter=50).fit(x) for s in range(5)]
    several = GaussianMixture(6, random_state=0, init_params="random", n_init=20, max_iter=50).fit(x)
    assert several.lower_bound_ >= np.median([mixture.lower_bound_ for mixture in single])


@every_type
def test_warm_start_goes_on_where_the_last_fit_ended(covariance_type):
    x = blobs(k=2, seed=5)
    options = {"n_components": 4, "covariance_type": covariance_type, "random_state": 1, "tol": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        at_once = GaussianMixture(**options, max_iter=7).fit(x)
        in_parts = GaussianMixture(**options, max_iter=3, warm_start=True).fit(x)
        before = in_parts.lower_bound_
        in_parts.set_params(max_iter=4).fit(x)
    assert in_parts.lower_bounds_[0] > before
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(in_parts, name), getattr(at_once, name), rtol=1e-6)


def test_warm_start_one_iteration_at_a_time_notices_convergence():
    x = blobs()
    mixture = GaussianMixture(3, max_iter=1, warm_start=True, random_state=0)
    with pytest.warns(ConvergenceWarning):
        mixture.fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(50):
            mixture.fit(x)
            if mixture.converged_:
                break
    assert mixture.converged_
    assert mixture.n_iter_ == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_degenerate_data_are_fitted_without_regularisation_where_scikit_learn_raises():
    x = np.repeat([np.zeros(5), np.ones(5)], 5, axis=0)
    for covariance_type in TYPES:
        options = {"n_components": 10, "reg_covar": 0, "covariance_type": covariance_type, "random_state": 0}
        with pytest.raises(ValueError, match="ill-defined"):
            sklearn.mixture.GaussianMixture(**options).fit(x)
        mixture = GaussianMixture(**options).fit(x)
        assert np.isfinite(mixture.score_samples(x)).all()
        assert set(mixture.predict(x[:5])).isdisjoint(mixture.predict(x[5:]))


def test_tensors_are_taken_as_arrays_also_under_array_api_dispatch(monkeypatch):
    x = torch.from_numpy(blobs(50))
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # scikit-learn reads it now, SciPy did when it was imported
    for name in ("scipy._lib._array_api", "scipy._lib._array_api_override"):  # which there is depends on the version
        if name in sys.modules:
            monkeypatch.setattr(sys.modules[name], "SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True):
        assert type(GaussianMixture(2, random_state=0).fit(x).predict_proba(x)) is np.ndarray


# ---- type and device


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        (None, np.float64, np.float64),
        (None, np.float32, np.float32),
        (None, np.int64, np.float64),
        ("float32", np.float64, np.float32),
        ("float64", np.float32, np.float64),
    ],
)
def test_computes_in_the_type_of_the_data_or_the_one_asked_for(dtype, given, expected):
    x = (10 * blobs()).astype(given)
    mixture = GaussianMixture(3, dtype=dtype, random_state=0).fit(x)
    assert mixture.mixture_.location.dtype == getattr(torch, np.dtype(expected).name)
    for name in ATTRIBUTES:
        assert getattr(mixture, name).dtype == expected
    assert mixture.score_samples(x).dtype == expected
    assert mixture.predict_proba(x).dtype == expected
    assert mixture.predict(x).dtype == np.int64


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_type
def test_cuda_fits_as_the_cpu_does_and_unpickles_to_the_cpu(covariance_type):
    x = blobs()
    options = {"n_components": 3, "covariance_type": covariance_type, "random_state": 0}
    on_gpu, on_cpu = GaussianMixture(**options, device="cuda").fit(x), GaussianMixture(**options, device="cpu").fit(x)
    assert on_gpu.mixture_.location.is_cuda
    np.testing.assert_allclose(on_gpu.score_samples(x), on_cpu.score_samples(x), atol=1e-3)
    back = pickle.loads(pickle.dumps(on_gpu))
    assert not back.mixture_.location.is_cuda
    np.testing.assert_allclose(back.set_params(device="cpu").score_samples(x), on_gpu.score_samples(x))


@pytest.mark.parametrize(
    "wrong", [{"device": 3}, {"dtype": "int8"}, {"covariance_type": "low_rank"}, {"max_iter": -1}, {"tol": -1.0}]
)
def test_parameters_are_validated_as_scikit_learn_does(wrong):
    with pytest.raises(InvalidParameterError, match=f"The '{next(iter(wrong))}' parameter of GaussianMixture must be"):
        GaussianMixture(**wrong).fit(blobs())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weights_init": [0.5, 0.6]}, r"'weights' should be normalized, but got sum\(weights\) = 1.10000"),
        ({"weights_init": [1.5, -0.5]}, "range .* max value 1.50000, min value -0.50000"),
        ({"weights_init": [1.0]}, r"weights_init: expected shape \(2,\); got \(1,\)"),
        ({"means_init": np.zeros((2, 2))}, r"'means' should have the shape of \(2, 3\), but got \(2, 2\)"),
        ({"precisions_init": -np.ones((2, 3))}, "'diag precision' should be positive"),
        ({"precisions_init": np.ones(2), "covariance_type": "full"}, "'full precision' should have the shape"),
        ({"precisions_init": np.triu(np.ones((3, 3))), "covariance_type": "tied"}, "symmetric, positive-definite"),
        ({"means_init": np.full((2, 3), np.nan)}, "NaN"),
    ],
)
def test_bad_initial_values_are_refused_in_scikit_learns_words(wrong, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, **{"covariance_type": "diag"} | wrong).fit(blobs())


# ---- sampling


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_samples_are_scikit_learns_own_for_the_same_seed(covariance_type):
    ours = GaussianMixture(3, covariance_type=covariance_type, random_state=3).fit(blobs())
    x, y = ours.sample(50)
    expected_x, expected_y = ours.to_sklearn().sample(50)
    np.testing.assert_allclose(x, expected_x)
    np.testing.assert_array_equal(y, expected_y)


# ---- as a part of scikit-learn


def test_works_in_a_pipeline_and_a_grid_search():
    x = blobs(d=2)
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(random_state=0))
    grid = {"gaussianmixture__n_components": [1, 3], "gaussianmixture__covariance_type": ["full", "spherical"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x)
    assert search.best_params_["gaussianmixture__n_components"] == 3
    weight = np.ones(len(x))
    fitted = clone(search.best_estimator_).fit(x, gaussianmixture__sample_weight=weight)
    assert fitted.predict(x).shape == (len(x),)


def test_sample_weight_is_routed_when_asked_for():
    x, weight = blobs(), np.arange(300.0)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = GaussianMixture(2, random_state=0).set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        routed = make_pipeline(scaler, estimator).fit(x, sample_weight=weight)
    direct = GaussianMixture(2, random_state=0).fit(StandardScaler().fit_transform(x), sample_weight=weight)
    np.testing.assert_array_equal(routed[-1].means_, direct.means_)


def test_fitted_parameters_cannot_be_overwritten_by_mistake():
    mixture = GaussianMixture(2).fit(blobs())
    with pytest.raises(AttributeError, match="no setter"):
        mixture.means_ = np.zeros((2, 3))
    with pytest.raises(ValueError, match="read-only"):
        mixture.means_[0] = 0


@pytest.mark.parametrize(
    ("verbose", "expected"),
    [(0, []), (1, ["Initialization 0", "  Iteration 2", "  Iteration 4", "Initialization did not converge."])],
)
def test_verbose_prints_scikit_learns_lines(verbose, expected):
    options = {"verbose": verbose, "verbose_interval": 2, "max_iter": 4, "tol": 0, "random_state": 0}
    printed = []
    for cls in (GaussianMixture, sklearn.mixture.GaussianMixture):
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.warns(ConvergenceWarning):
            cls(3, **options).fit(blobs())
        printed.append(out.getvalue().splitlines())
    assert printed == [expected, expected]


# ---- scikit-learn's own tests


def test_the_documentation_explains_what_of_scikit_learns_own_tests_need_not_pass_and_what_stands_for_it(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("sklearn_suite", ROOT / "benchmarks" / "sklearn_suite.py")
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    page = (ROOT / "docs" / "sklearn.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `test_")
    ]
    assert {name.strip("`"): reason for name, reason, _ in rows} == suite.NOT_APPLICABLE
    for _, _, instead in rows:
        assert set(re.findall(r"`(test_\w+)`", instead)) <= globals().keys()
