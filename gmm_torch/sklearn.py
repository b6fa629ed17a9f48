"""A drop-in for `sklearn.mixture.GaussianMixture` that fits and scores with torch, on any device.

    from gmm_torch.sklearn import GaussianMixture

NumPy arrays go in and come out, and parameters, attributes, methods and warnings are scikit-learn's; `docs/sklearn.md`
lists what differs. This is the only file of the library that imports scikit-learn.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import sklearn.mixture
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn import config_context
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture._gaussian_mixture import _check_means, _check_precisions
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

# Fitted attributes of both classes, besides the parameters.
_COURSE = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "feature_names_in_")


class GaussianMixture(sklearn.mixture.GaussianMixture):
    """Gaussian mixture fitted by EM, a subclass of `sklearn.mixture.GaussianMixture`.

    Args and attributes are scikit-learn's, except these.

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
            other parameters through `from_sklearn`.
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
        super().__init__(
            n_components,
            covariance_type=covariance_type,
            tol=tol,
            reg_covar=reg_covar,
            max_iter=max_iter,
            n_init=n_init,
            init_params=init_params,
            weights_init=weights_init,
            means_init=means_init,
            precisions_init=precisions_init,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
        )
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
        previous = [self.lower_bound_] if warm else []
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
            **(self._last_parameters() if warm else self._initial_values(X.shape[1])),
        }
        points = torch.from_numpy(X).to(device) if X.flags.writeable else X
        if self.max_iter == 0:
            em = mixture.start_em(EMOptions(**options)).run(
                Batches(points, X.shape[1], device, weight), until="iterate"
            )
            first = em.parameters.map(lambda value: value[0])
            mixture.assign(em.standardisation.undo(em.family, first), em.standardisation.location)
        else:
            self._print_verbose_msg_init_beg(0)
            before = -np.inf

            def report(n_iter: int, objective: Tensor) -> None:
                nonlocal before
                change, before = float(objective.max()) - before, float(objective.max())
                self._print_verbose_msg_iter_end(n_iter, change)

            options |= {"max_iter": self.max_iter, "on_iteration": report if self.verbose else None}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EMConvergenceWarning)  # scikit-learn's takes its place
                mixture.fit(points, sample_weight=weight, **options)
        self.mixture_ = mixture
        self.n_iter_ = mixture.n_iter
        self.lower_bound_ = mixture.lower_bound
        self.lower_bounds_ = mixture.history.tolist()
        changes = np.diff(previous + self.lower_bounds_)
        # EM counts a fit of several restarts as converged when all of them are, scikit-learn when the best is.
        self.converged_ = mixture.converged or bool(len(changes) and abs(changes[-1]) < self.tol)
        if self.max_iter > 0:
            self._print_verbose_msg_init_end(self.lower_bound_, self.converged_)
            if not self.converged_:
                change = f" The lower bound still changed by {changes[-1]:.3g} an iteration" if len(changes) else ""
                warn(
                    "Best performing initialization did not converge. Try different init parameters, or increase "
                    f"max_iter, tol, or check for degenerate data.{change and f'{change} (tol={self.tol:g}).'}",
                    ConvergenceWarning,
                )
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
        """The given initial values, checked, as float64 tensors."""
        k, weights, means, precisions = self.n_components, self.weights_init, self.means_init, self.precisions_init
        values: dict[str, NDArray[Any]] = {}
        if weights is not None:
            values["weights_init"] = _check_weights(weights)
        if means is not None:
            values["means_init"] = _check_means(means, k, n_features)
        if precisions is not None:
            values["precisions_init"] = _check_precisions(precisions, self.covariance_type, k, n_features)
        return {name: torch.tensor(value, dtype=torch.float64, device="cpu") for name, value in values.items()}

    # ---- the fitted parameters

    @property
    def weights_(self) -> NDArray[Any]:
        """(K,), non-negative, summing to one."""
        return _read_only(self.mixture_.weights)

    @property
    def means_(self) -> NDArray[Any]:
        """(K, D)."""
        return _read_only(self.mixture_.means)

    @property
    def covariances_(self) -> NDArray[Any]:
        """(K, D, D) full, (D, D) tied, (K, D) diag, (K,) spherical."""
        return _read_only(self.mixture_.covariances)

    @property
    def precisions_(self) -> NDArray[Any]:
        """The inverses of `covariances_`, in their shape."""
        return _read_only(self._precisions(self._cholesky(self.mixture_)))

    @property
    def precisions_cholesky_(self) -> NDArray[Any]:
        """Upper triangular U with U U' the precisions (full, tied), or their square roots (diag, spherical)."""
        return _read_only(self._cholesky(self.mixture_))

    @staticmethod
    def _cholesky(mixture: TorchMixture) -> Tensor:
        """`precisions_cholesky_`, which the four families store as their factor."""
        return mixture.parameters_about_location().factors["factor"]

    def _precisions(self, cholesky: Tensor) -> Tensor:
        return cholesky @ cholesky.mT if self.covariance_type in ("full", "tied") else cholesky.square()

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
            raise TypeError(f"estimator: expected a sklearn.mixture.GaussianMixture; got {type(estimator).__name__}")
        given = copy.deepcopy(estimator.get_params(deep=False))
        converted = cls(**given | {"device": device, "dtype": dtype})
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
        _copy_attributes(_COURSE, estimator, converted)
        return converted

    def to_sklearn(self) -> sklearn.mixture.GaussianMixture:
        """The same mixture as a `sklearn.mixture.GaussianMixture`, fitted if this is; `device` and `dtype` are lost."""
        parameters = self.get_params(deep=False)
        del parameters["device"], parameters["dtype"]
        converted = sklearn.mixture.GaussianMixture(**copy.deepcopy(parameters))
        if not hasattr(self, "mixture_"):
            return converted
        names = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "n_features_in_")
        _copy_attributes(names + _COURSE, self, converted)
        return converted

    def __getstate__(self) -> dict[str, Any]:
        """The state with the mixture on the CPU, so that it unpickles where there is no such device."""
        state = dict(super().__getstate__())
        if "mixture_" in state:
            state["mixture_"] = copy.deepcopy(state["mixture_"]).cpu()
        return state


def _copy_attributes(names: tuple[str, ...], source: object, target: object) -> None:
    """Give `target` copies of those attributes that `source` has."""
    for name in names:
        if hasattr(source, name):
            setattr(target, name, copy.copy(getattr(source, name)))


def _read_only(parameter: Tensor) -> NDArray[Any]:
    """A copy on the host that raises when written to, as a write would not reach the mixture."""
    array = parameter.detach().cpu().numpy().copy()
    array.setflags(write=False)
    return array


def _check_weights(given: ArrayLike) -> NDArray[Any]:
    """Weights (K,) as an array; ValueError unless they lie in [0, 1] and sum to one."""
    # The signature of scikit-learn's own check changes between versions.
    weights: NDArray[Any] = check_array(given, dtype=[np.float64, np.float32], ensure_2d=False)
    low, high, total = weights.min(), weights.max(), weights.sum()
    if low < 0 or high > 1:
        raise ValueError(
            f"The parameter 'weights' should be in the range [0, 1], but got max value {high:.5f}, min value {low:.5f}"
        )
    if abs(total - 1) > (1e-6 if weights.dtype == np.float32 else 1e-8):
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {total:.5f}")
    return weights
