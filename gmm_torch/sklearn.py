"""A drop-in for `sklearn.mixture.GaussianMixture` that fits and scores with torch, on any device.

    from gmm_torch.sklearn import GaussianMixture

NumPy arrays go in and come out, and parameters, attributes, methods and warnings are scikit-learn's; `docs/sklearn.md`
lists what differs. This is the only file of the library that imports scikit-learn.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import sklearn.mixture
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from gmm_torch.errors import ConvergenceWarning as EMConvergenceWarning
from gmm_torch.errors import warn
from gmm_torch.mixture import GaussianMixture as TorchMixture
from gmm_torch.mixture.batches import Batches, check_weight
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.parameters import Parameters

# The types whose covariances are matrices; those of the others are variances.
MATRIX_TYPES = ("full", "tied")
INITIAL_VALUES = ("weights_init", "means_init", "precisions_init")
# What `sklearn.mixture.GaussianMixture` has no parameter for.
OWN_PARAMETERS = ("device", "dtype")
# What both say of a fit beside its parameters.
COURSE = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "feature_names_in_")


class GaussianMixture(DensityMixin, BaseEstimator):
    """Gaussian mixture fitted by EM, with the interface of `sklearn.mixture.GaussianMixture`.

    Args and attributes are scikit-learn's but for these.

    Args:
        reg_covar: variance that is added to the diagonal of every covariance, in squared units of the data; never
            below 1e-10 of a feature's variance.
        max_iter: largest number of EM iterations; 0 leaves the initialisation as it is.
        n_init: number of restarts, run as one batch; the best is kept.
        device: where to compute, "cuda" for instance; None for torch's default device.
        dtype: "float32" or "float64", what to compute in; None for that of the data.

    Attributes:
        mixture_: the fitted `gmm_torch.GaussianMixture`. `weights_`, `means_`, `covariances_`, `precisions_` and
            `precisions_cholesky_` are read-only copies of its parameters, made when they are asked for; assign
            parameters of your own through `from_sklearn`.
        n_iter_: number of iterations of the batch of restarts.
        lower_bound_: mean log-likelihood of the training data in the last iteration, less a term of the size of the
            regularisation, in nats; `lower_bounds_` has those of each iteration.

    Examples:
        >>> import numpy as np
        >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(X)
        >>> bool((mixture.predict(X[:3]) == mixture.predict([[0, 0]])).all())
        True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **sklearn.mixture.GaussianMixture._parameter_constraints,
        "device": [str, torch.device, None],
        "dtype": [StrOptions({"float32", "float64"}), None],
    }

    mixture_: TorchMixture
    converged_: bool
    n_iter_: int
    lower_bound_: float
    lower_bounds_: list[float]

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: ArrayLike | None = None,
        means_init: ArrayLike | None = None,
        precisions_init: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        device: str | torch.device | None = None,
        dtype: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.device = device
        self.dtype = dtype

    # ---- fitting

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit by EM.

        A read-only array, as a memory map is, is read in batches at every pass; any other is moved to the device once.

        Args:
            X: (N, D), N >= max(2, K).
            y: ignored.
            sample_weight: (N,), >= 0. A weight of two is the point twice, of zero the point left out.

        Raises:
            ValueError: NaN or infinity, fewer points than components, a parameter or an initial value out of range.
        """
        X = self._validate(X, reset=True, ensure_min_samples=2)
        if len(X) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = {len(X)}"
            )
        weight = None if sample_weight is None else check_weight(np.array(sample_weight), len(X))
        warm = self.warm_start and hasattr(self, "mixture_")
        initial = self._last_parameters() if warm else self._initial_values(X.shape[1])
        device = self._device()
        mixture = TorchMixture(
            self.n_components, X.shape[1], self.covariance_type, device=device, dtype=getattr(torch, X.dtype.name)
        )
        options: dict[str, Any] = {
            "tol": self.tol,
            "reg_covar": self.reg_covar,
            "reg_mode": "absolute",
            "n_init": 1 if warm else self.n_init,
            "init_params": self.init_params,
            "seed": int(check_random_state(self.random_state).randint(2**31 - 1)),
            **initial,
        }
        points = torch.from_numpy(X).to(device) if X.flags.writeable else X
        if self.max_iter == 0:
            initialise(mixture, Batches(points, X.shape[1], device, weight), EMOptions(**options))
        else:
            progress = Progress(self.verbose, self.verbose_interval, options["n_init"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EMConvergenceWarning)  # scikit-learn's takes its place
                mixture.fit(
                    points, max_iter=self.max_iter, sample_weight=weight, on_iteration=progress.iteration, **options
                )
        previous = [self.lower_bound_] if warm else []
        self.mixture_ = mixture
        self.n_iter_ = mixture.n_iter
        self.lower_bound_ = mixture.lower_bound
        self.lower_bounds_ = mixture.history.tolist()
        changes = np.diff(previous + self.lower_bounds_)
        # EM counts a fit of several restarts as converged when all of them are, scikit-learn when the best is.
        self.converged_ = mixture.converged or bool(len(changes) and abs(changes[-1]) < self.tol)
        if self.max_iter > 0:
            progress.end(self.lower_bound_, self.converged_)
            if not self.converged_:
                warn_not_converged(changes, self.tol)
        return self

    def fit_predict(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> NDArray[np.int64]:
        """`fit(X, y, sample_weight).predict(X)`: (N,)."""
        return self.fit(X, y, sample_weight).predict(X)

    def _device(self) -> torch.device:
        return torch.get_default_device() if self.device is None else torch.device(self.device)

    def _validate(self, X: ArrayLike, reset: bool, **checks: Any) -> NDArray[Any]:
        """X as a contiguous (N, D) array of the type to compute in."""
        dtype = [np.float64, np.float32] if self.dtype is None else np.dtype(self.dtype)
        with config_context(array_api_dispatch=False):  # with it, tensors would come through as tensors
            return validate_data(self, X, reset=reset, dtype=dtype, order="C", **checks)

    def _last_parameters(self) -> dict[str, Tensor]:
        """Parameters from which a warm start continues; float64 keeps the digits of means far from the origin."""
        last = copy.deepcopy(self.mixture_).double()
        return {
            "weights_init": last.weights,
            "means_init": last.means,
            "precisions_init": self._precisions(self._cholesky(last)),
        }

    def _initial_values(self, n_features: int) -> dict[str, Tensor]:
        """The initial values that were given, checked, as float64 tensors."""
        k, d, kind = self.n_components, n_features, self.covariance_type
        precision_shape: tuple[int, ...] = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[kind]
        shapes = {"weights": (k,), "means": (k, d), f"{kind} precision": precision_shape}
        checked = {}
        for name, (label, shape) in zip(INITIAL_VALUES, shapes.items(), strict=True):
            value = getattr(self, name)
            if value is None:
                continue
            value = check_array(value, dtype=[np.float64, np.float32], ensure_2d=False, allow_nd=True, input_name=name)
            if value.shape != shape:
                raise ValueError(f"The parameter '{label}' should have the shape of {shape}, but got {value.shape}")
            if name == "weights_init":
                check_weights(value)
            elif name == "precisions_init":
                self._check_precisions(value)
            checked[name] = torch.tensor(value, dtype=torch.float64, device="cpu")
        return checked

    def _check_precisions(self, precisions: NDArray[Any]) -> None:
        """Raise unless the precisions are symmetric and positive-definite."""
        if self.covariance_type in MATRIX_TYPES:
            symmetric = np.allclose(precisions, np.swapaxes(precisions, -1, -2))
            if not (symmetric and (np.linalg.eigvalsh(precisions) > 0).all()):
                raise ValueError(f"'{self.covariance_type} precision' should be symmetric, positive-definite")
        elif not (precisions > 0).all():
            raise ValueError(f"'{self.covariance_type} precision' should be positive")

    # ---- the fitted parameters

    @property
    def weights_(self) -> NDArray[Any]:
        """(K,), non-negative, summing to one."""
        return read_only(self.mixture_.weights)

    @property
    def means_(self) -> NDArray[Any]:
        """(K, D)."""
        return read_only(self.mixture_.means)

    @property
    def covariances_(self) -> NDArray[Any]:
        """(K, D, D) full, (D, D) tied, (K, D) diag, (K,) spherical."""
        return read_only(self.mixture_.covariances)

    @property
    def precisions_(self) -> NDArray[Any]:
        """The inverses of `covariances_`, in their shape."""
        return read_only(self._precisions(self._cholesky(self.mixture_)))

    @property
    def precisions_cholesky_(self) -> NDArray[Any]:
        """Upper triangular U with U U' the precisions (full, tied), or their square roots (diag, spherical)."""
        return read_only(self._cholesky(self.mixture_))

    @staticmethod
    def _cholesky(mixture: TorchMixture) -> Tensor:
        """What the four families call their factor is what scikit-learn calls precisions_cholesky_."""
        return mixture.parameters_about_location().factors["factor"]

    def _precisions(self, cholesky: Tensor) -> Tensor:
        return cholesky @ cholesky.mT if self.covariance_type in MATRIX_TYPES else cholesky.square()

    # ---- densities

    def score_samples(self, X: ArrayLike) -> NDArray[Any]:
        """Log-likelihood of each point of X (N, D) in nats: (N,)."""
        return self._each_batch(X, TorchMixture.log_prob)

    def score(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean log-likelihood per point of X (N, D) in nats, with weights (N,) >= 0 if given; higher is better."""
        log_likelihood = self.score_samples(X)
        if sample_weight is None:
            return float(log_likelihood.mean())
        weight = check_weight(np.array(sample_weight), len(log_likelihood)).numpy()
        return float(np.average(log_likelihood, weights=weight))

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Most probable component of each point of X (N, D): (N,)."""
        return self._each_batch(X, TorchMixture.predict)

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Posterior probabilities of the components for each point of X (N, D): (N, K)."""
        return self._each_batch(X, TorchMixture.predict_proba)

    def _each_batch(self, X: ArrayLike, function: Callable[[TorchMixture, Tensor], Tensor]) -> NDArray[Any]:
        """`function(mixture, x)` of batches x of X on the device, put together on the host."""
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        mixture = self.mixture_.to(self._device())
        with torch.no_grad():
            batches = Batches(X, mixture.n_features, mixture.location.device)
            return np.concatenate([function(mixture, x).cpu().numpy() for x, _ in batches])

    def bic(self, X: ArrayLike) -> float:
        """Bayesian information criterion on X (N, D); lower is better (Schwarz 1978)."""
        log_likelihood = self.score_samples(X)
        return float(-2 * log_likelihood.sum() + self._n_parameters() * math.log(len(log_likelihood)))

    def aic(self, X: ArrayLike) -> float:
        """Akaike information criterion on X (N, D); lower is better (Akaike 1974)."""
        return float(-2 * self.score_samples(X).sum() + 2 * self._n_parameters())

    def _n_parameters(self) -> int:
        return self.mixture_.n_parameters()

    def sample(self, n_samples: int = 1) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Points (n_samples, D) drawn with `random_state`, and their components (n_samples,), which ascend."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"Invalid value for 'n_samples': {n_samples}. The sampling requires at least one sample.")
        rng = check_random_state(self.random_state)
        mixture = copy.deepcopy(self.mixture_).cpu().double()
        weights = mixture.weights.detach().numpy()
        component = np.repeat(np.arange(len(weights)), rng.multinomial(n_samples, weights / weights.sum()))
        noise = torch.from_numpy(rng.standard_normal((n_samples, mixture.n_features)))
        with torch.no_grad():
            y = torch.from_numpy(component)
            factors = mixture.parameters_about_location().factors
            points = mixture.means[y] + mixture.family.transform_noise(noise, y, factors)
        return points.numpy(), component

    # ---- conversion

    @classmethod
    def from_sklearn(
        cls,
        estimator: sklearn.mixture.GaussianMixture,
        *,
        device: str | torch.device | None = None,
        dtype: str | None = None,
    ) -> Self:
        """The same mixture as a scikit-learn `estimator`, fitted if that is, with `device` and `dtype`.

        Of a fitted one, `weights_`, `means_` and `precisions_cholesky_` are what counts, as in scikit-learn.

        Raises:
            TypeError: another kind of estimator.
        """
        if not isinstance(estimator, sklearn.mixture.GaussianMixture):
            raise TypeError(
                f"estimator: expected a sklearn.mixture.GaussianMixture; got {type(estimator).__name__}: "
                "a BayesianGaussianMixture has no weights in this sense, refit it"
            )
        converted = cls(**copy.deepcopy(estimator.get_params(deep=False)), device=device, dtype=dtype)
        if not hasattr(estimator, "precisions_cholesky_"):
            return converted
        weights, means, cholesky = (
            torch.tensor(np.asarray(each), device="cpu")
            for each in (estimator.weights_, estimator.means_, estimator.precisions_cholesky_)
        )
        stored = means.dtype if dtype is None else getattr(torch, dtype)
        kind, device = estimator.covariance_type, converted._device()
        mixture = TorchMixture(means.shape[0], means.shape[1], kind, device=device, dtype=stored)
        location = means.double().mean(0)
        parameters = Parameters(weights.double().log(), means - location, {"factor": cholesky.double()})
        converted.mixture_ = mixture.assign(parameters, location)
        converted.n_features_in_ = means.shape[1]
        copy_attributes(COURSE, estimator, converted)
        return converted

    def to_sklearn(self) -> sklearn.mixture.GaussianMixture:
        """The same mixture as a `sklearn.mixture.GaussianMixture`, fitted if this is; `device` and `dtype` are lost."""
        parameters = self.get_params(deep=False)
        for name in OWN_PARAMETERS:
            del parameters[name]
        converted = sklearn.mixture.GaussianMixture(**copy.deepcopy(parameters))
        if not hasattr(self, "mixture_"):
            return converted
        names = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "n_features_in_")
        copy_attributes(names + COURSE, self, converted)
        return converted

    def __getstate__(self) -> dict[str, Any]:
        """The state with the mixture on the CPU, so that it unpickles where there is no such device."""
        state = dict(super().__getstate__())
        if "mixture_" in state:
            state["mixture_"] = copy.deepcopy(state["mixture_"]).cpu()
        return state


class Progress:
    """Prints the course of a fit as scikit-learn's `verbose` does: 0 nothing, 1 iterations, 2 also changes, times."""

    def __init__(self, verbose: int, interval: int, n_init: int) -> None:
        self.verbose = int(verbose)
        self.interval = interval
        self.previous = math.nan
        self.began = self.last = time.perf_counter()
        self._print("Initialization 0" if n_init == 1 else f"Initializations 0 to {n_init - 1}")

    def iteration(self, n_iter: int, objective: Tensor) -> None:
        """After an iteration; objective is (R,), of each restart."""
        if not self.verbose or (n_iter % self.interval and (n_iter + 1) % self.interval):
            return
        best = float(objective.max()) if self.verbose > 1 else math.nan
        if n_iter % self.interval == 0:
            now = time.perf_counter()
            detail = f"\t time lapse {now - self.last:.5f}s\t ll change {best - self.previous:.5f}"
            self._print(f"  Iteration {n_iter}", detail)
            self.last = now
        self.previous = best

    def end(self, lower_bound: float, converged: bool) -> None:
        """After the last iteration."""
        message = f"Initialization {'converged' if converged else 'did not converge'}."
        self._print(message, f" time lapse {time.perf_counter() - self.began:.5f}s\t lower bound {lower_bound:.5f}.")

    def _print(self, message: str, detail: str = "") -> None:
        if self.verbose:
            print(message + (detail if self.verbose > 1 else ""))  # noqa: T201


def copy_attributes(names: tuple[str, ...], source: object, target: object) -> None:
    """Give `target` copies of those attributes that `source` has."""
    for name in names:
        if hasattr(source, name):
            setattr(target, name, copy.copy(getattr(source, name)))


def read_only(parameter: Tensor) -> NDArray[Any]:
    """A copy on the host that raises when written to, as a write would not reach the mixture."""
    array = parameter.detach().cpu().numpy().copy()
    array.setflags(write=False)
    return array


def check_weights(weights: NDArray[Any]) -> None:
    """Raise unless the weights lie in [0, 1] and sum to one."""
    low, high, total = weights.min(), weights.max(), weights.sum()
    if low < 0 or high > 1:
        raise ValueError(
            f"The parameter 'weights' should be in the range [0, 1], but got max value {high:.5f}, min value {low:.5f}"
        )
    if abs(total - 1) > (1e-6 if weights.dtype == np.float32 else 1e-8):
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {total:.5f}")


def warn_not_converged(changes: NDArray[Any], tol: float) -> None:
    """scikit-learn's warning, and by how much the tolerance was missed; changes are those of each iteration."""
    missed = f" The lower bound still changed by {changes[-1]:.3g} an iteration (tol={tol:g})." if len(changes) else ""
    warn(
        "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, "
        "or check for degenerate data." + missed,
        ConvergenceWarning,
    )


def initialise(mixture: TorchMixture, batches: Batches, options: EMOptions) -> None:
    """Give `mixture` the parameters that EM would start from; of several restarts, those of the first."""
    em = mixture.start_em(options).run(batches, until="iterate")
    start = em.parameters.map(lambda value: value[0])
    mixture.assign(em.standardisation.undo(em.family, start), em.standardisation.location)
