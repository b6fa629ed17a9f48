"""Peers behind one call: fit a problem from given initial values for so many iterations.

Each returns the mean log-likelihood of the points under what it fitted, computed by the peer itself and outside of the
timing. Peers that are not installed are left out.
"""

import logging
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from problems import Problem, clock
from torch import Tensor

Start = dict[str, Tensor]


class Run(NamedTuple):
    """Seconds of a fit, and the mean log-likelihood of the points afterwards."""

    seconds: float
    log_likelihood: float


Peer = Callable[[Problem, Tensor, Start, int], Run]


def ours(problem: Problem, x: Tensor, start: Start, n_iter: int) -> Run:
    """gmm_torch, in the type of x."""
    from gmm_torch import GaussianMixture

    mixture = GaussianMixture(problem.k, problem.d, problem.covariance_type, dtype=x.dtype, device=x.device)
    begin = clock(x.device)
    mixture.fit(x, max_iter=n_iter, tol=0.0, reg_mode="absolute", **start)
    seconds = clock(x.device) - begin
    assert mixture.n_iter == n_iter
    return Run(seconds, mixture.score(x))


def initialisation(problem: Problem, x: Tensor) -> float:
    """Seconds that our own initialisation takes, until the first iteration could begin."""
    from gmm_torch import GaussianMixture
    from gmm_torch.mixture.options import EMOptions

    mixture = GaussianMixture(problem.k, problem.d, problem.covariance_type, dtype=x.dtype)
    begin = clock(x.device)
    em = mixture.to(x.device).start_em(EMOptions())
    while em.phase in ("summary", "assign"):
        em.advance(em.collect([(x, None)]))
    return clock(x.device) - begin


def device_of(x: Any) -> torch.device:
    """Where an array or a tensor is."""
    return torch.device("cpu") if isinstance(x, np.ndarray) else x.device


def _scikit_learn(problem: Problem, x: Any, start: dict[str, Any], n_iter: int) -> Run:
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        problem.k,
        covariance_type=problem.covariance_type,
        max_iter=n_iter,
        tol=0.0,
        init_params="random_from_data",
        random_state=0,
        **start,
    )
    begin = clock(device_of(x))
    model.fit(x)
    seconds = clock(device_of(x)) - begin
    assert model.n_iter_ == n_iter
    return Run(seconds, float(model.score(x)))


def scikit_learn(dtype: type[np.floating[Any]]) -> Peer:
    """scikit-learn on NumPy arrays of a type."""

    def run(problem: Problem, x: Tensor, start: Start, n_iter: int) -> Run:
        arrays = {name: value.numpy().astype(dtype) for name, value in start.items()}
        return _scikit_learn(problem, x.numpy().astype(dtype), arrays, n_iter)

    return run


def scikit_learn_array_api(problem: Problem, x: Tensor, start: Start, n_iter: int) -> Run:
    """scikit-learn's array-API mode on torch tensors, in the type and on the device of x."""
    import sklearn

    with sklearn.config_context(array_api_dispatch=True):
        return _scikit_learn(problem, x, {name: value.to(x) for name, value in start.items()}, n_iter)


def torchgmm(problem: Problem, x: Tensor, start: Start, n_iter: int) -> Run:
    """torchgmm; takes initial means only, and finds its first covariances from them."""
    from torchgmm.bayes import GaussianMixture

    model = GaussianMixture(
        problem.k,
        covariance_type=problem.covariance_type,
        init_means=start["means_init"].to(x),
        convergence_tolerance=0.0,
        trainer_params={
            "max_epochs": n_iter,
            "enable_progress_bar": False,
            "accelerator": "gpu" if x.is_cuda else "cpu",
            "devices": 1,
        },
    )
    begin = clock(x.device)
    model.fit(x)
    seconds = clock(x.device) - begin
    return Run(seconds, -float(model.score(x)))


def tgmm(problem: Problem, x: Tensor, start: Start, n_iter: int) -> Run:
    """tgmm; takes initial means and covariances."""
    from tgmm import GaussianMixture

    precisions = start["precisions_init"].to(x)
    covariances = torch.linalg.inv(precisions) if precisions.dim() == 3 else 1 / precisions
    model = GaussianMixture(
        n_components=problem.k,
        n_features=problem.d,
        covariance_type=problem.covariance_type,
        init_means=start["means_init"].to(x),
        init_covariances=covariances,
        max_iter=n_iter,
        tol=1e-30,
        device=str(x.device),
    )
    begin = clock(x.device)
    model.fit(x)
    seconds = clock(x.device) - begin
    return Run(seconds, float(model.score_samples(x).double().mean()))


def pomegranate(problem: Problem, x: Tensor, start: Start, n_iter: int) -> Run:
    """pomegranate; takes initial means and covariances."""
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    precisions = start["precisions_init"].float()
    covariances = torch.linalg.inv(precisions) if precisions.dim() == 3 else 1 / precisions
    kind = problem.covariance_type
    parts = [
        Normal(mean.float(), c, covariance_type=kind) for mean, c in zip(start["means_init"], covariances, strict=True)
    ]
    model = GeneralMixtureModel(parts, max_iter=n_iter, tol=-np.inf)
    begin = clock(x.device)
    model.fit(x)
    seconds = clock(x.device) - begin
    return Run(seconds, float(model.log_probability(x).double().mean()))


# name -> the peer, and the covariance types that the benchmark asks of it: pomegranate has no tied; its `sphere`, and
# tgmm's tied and spherical, are not in the comparison.
ALL = ("full", "diag", "tied", "spherical")
PEERS: dict[str, tuple[Peer, tuple[str, ...]]] = {
    "scikit-learn float64": (scikit_learn(np.float64), ALL),
    "scikit-learn float32": (scikit_learn(np.float32), ALL),
    "scikit-learn array API": (scikit_learn_array_api, ALL),
    "torchgmm": (torchgmm, ALL),
    "tgmm": (tgmm, ("full", "diag")),
    "pomegranate": (pomegranate, ("full", "diag")),
}


def quiet() -> None:
    """Silence what the peers print about stopping where they are told to."""
    os.environ.setdefault("SCIPY_ARRAY_API", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
