"""The same start leads scikit-learn in float64 and the mixture to the same place."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning as SklearnConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference

from gmm_torch import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical")
DTYPES = (torch.float32, torch.float64)


def blobs() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=3, size=(4, 5))
    mixing = rng.normal(size=(4, 5, 5)) / 2
    label = rng.integers(4, size=600)
    return centres[label] + np.einsum("nij,nj->ni", mixing[label], rng.normal(size=(600, 5)))


DATA = {
    "blobs": (blobs, 4),
    "iris": (lambda: load_iris().data, 3),
    "wine": (lambda: load_wine().data, 3),
    "digits": (lambda: load_digits().data[:, 10:30], 10),
}


def start(x: np.ndarray, k: int, covariance_type: str) -> dict[str, np.ndarray]:
    """Weights, means and precisions to begin from: equal, points of the data, the data's own variances."""
    rng = np.random.default_rng(1)
    precision = 1 / (x.var(0) + 1e-2)
    precisions = {
        "full": np.tile(np.diag(precision), (k, 1, 1)),
        "tied": np.diag(precision),
        "diag": np.tile(precision, (k, 1)),
        "spherical": np.full(k, precision.mean()),
    }[covariance_type]
    means = x[rng.choice(len(x), k, replace=False)]
    return {"weights_init": np.full(k, 1 / k), "means_init": means, "precisions_init": precisions}


def both(
    name: str, covariance_type: str, dtype: torch.dtype, n_iter: int = 25, reg: float = 1e-6
) -> tuple[Reference, GaussianMixture, np.ndarray, torch.Tensor]:
    """The reference and the mixture after `n_iter` iterations from the same start, and the data of each."""
    make, k = DATA[name]
    # Rounded to float32 first, so that both get the same points.
    x = make().astype(np.float32).astype(np.float64)
    begin = start(x, k, covariance_type)
    options = {"max_iter": n_iter, "tol": 0.0, "reg_covar": reg}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SklearnConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        reference = Reference(k, covariance_type=covariance_type, **options, **begin).fit(x)
        points = torch.tensor(x, dtype=dtype)
        mixture = GaussianMixture(k, x.shape[1], covariance_type, dtype=dtype)
        tensors = {key: torch.tensor(value) for key, value in begin.items()}
        mixture.fit(points, reg_mode="absolute", **options, **tensors)
    return reference, mixture, x, points


def relative_error(actual: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference over the points, relative to the log-likelihood where that is above one."""
    return float(np.max(np.abs(actual.double().numpy() - expected) / np.maximum(1, np.abs(expected))))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("name", DATA)
def test_the_log_likelihood_of_every_point_agrees(name, covariance_type, dtype):
    reference, mixture, x, points = both(name, covariance_type, dtype)
    assert mixture.log_prob(points).dtype == dtype
    assert relative_error(mixture.log_prob(points), reference.score_samples(x)) < 1e-4


@pytest.mark.parametrize("covariance_type", TYPES)
def test_parameters_agree_in_float64(covariance_type):
    reference, mixture, _, _ = both("blobs", covariance_type, torch.float64)
    np.testing.assert_allclose(mixture.weights.numpy(), reference.weights_, atol=1e-4)
    np.testing.assert_allclose(mixture.means.numpy(), reference.means_, atol=1e-4)
    np.testing.assert_allclose(mixture.covariances.numpy(), reference.covariances_, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_without_regularisation_parameters_agree_to_the_last_digits(covariance_type):
    reference, mixture, _, _ = both("blobs", covariance_type, torch.float64, reg=0.0)
    np.testing.assert_allclose(mixture.weights.numpy(), reference.weights_, atol=1e-7)
    np.testing.assert_allclose(mixture.means.numpy(), reference.means_, atol=1e-6)
    np.testing.assert_allclose(mixture.covariances.numpy(), reference.covariances_, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_score_criteria_and_predictions_agree(covariance_type, dtype):
    reference, mixture, x, points = both("blobs", covariance_type, dtype)
    assert mixture.score(points) == pytest.approx(reference.score(x), rel=1e-4)
    assert mixture.bic(points) == pytest.approx(reference.bic(x), rel=1e-4)
    assert mixture.aic(points) == pytest.approx(reference.aic(x), rel=1e-4)
    np.testing.assert_allclose(mixture.predict_proba(points).numpy(), reference.predict_proba(x), atol=2e-3)
    clear = np.sort(reference.predict_proba(x), axis=1)[:, -1] > 0.51
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(mixture.predict(points).numpy()[clear], reference.predict(x)[clear])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_it_stops_at_the_same_iteration_with_the_same_bound(covariance_type):
    x = blobs()
    begin = start(x, 4, covariance_type)
    reference = Reference(4, covariance_type=covariance_type, tol=1e-4, max_iter=500, **begin).fit(x)
    mixture = GaussianMixture(4, 5, covariance_type, dtype=torch.float64)
    tensors = {key: torch.tensor(value) for key, value in begin.items()}
    mixture.fit(torch.tensor(x), tol=1e-4, max_iter=500, reg_mode="absolute", **tensors)
    assert mixture.converged
    assert mixture.n_iter == reference.n_iter_
    assert mixture.lower_bound == pytest.approx(reference.lower_bound_, rel=1e-8)
    np.testing.assert_allclose(mixture.history.numpy(), reference.lower_bounds_, rtol=1e-8)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sample_weight_zero_and_two_agree_with_dropping_and_doubling(covariance_type):
    x = blobs()
    weight = np.random.default_rng(2).integers(3, size=len(x))
    begin = start(x, 4, covariance_type)
    options = {"max_iter": 20, "tol": 0.0, "reg_covar": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = Reference(4, covariance_type=covariance_type, **options, **begin).fit(np.repeat(x, weight, axis=0))
        mixture = GaussianMixture(4, 5, covariance_type, dtype=torch.float64)
        tensors = {key: torch.tensor(value) for key, value in begin.items()}
        mixture.fit(torch.tensor(x), sample_weight=weight, **options, **tensors)
    assert relative_error(mixture.log_prob(torch.tensor(x)), reference.score_samples(x)) < 1e-6
    repeated = np.repeat(x, weight, axis=0)
    assert mixture.score(torch.tensor(x), torch.tensor(weight)) == pytest.approx(reference.score(repeated), rel=1e-7)
