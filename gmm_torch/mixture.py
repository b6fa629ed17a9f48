"""The Gaussian mixture: state and public verbs."""

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from gmm_torch.covariance import CovarianceType, get_family
from gmm_torch.devices import budget, full_precision, summing_device, widest
from gmm_torch.em.batches import Batches, Points, check_points, check_weight
from gmm_torch.em.engine import EM, EMOptions
from gmm_torch.em.parameters import Parameters
from gmm_torch.em.stepwise import OnlineEM
from gmm_torch.errors import NotFittedError
from gmm_torch.functional.densities import log_normal

# Bytes that the centred points (n, K, D) of one chunk may take when no gradient is asked for.
CHUNK_BYTES = {"host": 2**25, "accelerator": 2**28}


def is_traced() -> bool:
    """Whether torch.compile, torch.export or a transform of torch.func runs this code; values can't be read then."""
    return torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None


class GaussianMixture(nn.Module):
    """Mixture of K Gaussians over D features.

    The parameters are stored without constraints (logits of the weights, means relative to `location`, factors of the
    precisions with logarithms on their diagonals), so an optimiser may move them; they ask for no gradient until
    `requires_grad_()` is called. EM writes them through the inverse transforms.

    Args:
        n_components: K >= 1.
        n_features: D >= 1.
        covariance_type: "full", "tied", "diag", "spherical" or "low_rank", or a mapping of a name and options of that
            family, {"name": "low_rank", "rank": 20}; see `gmm_torch.covariance`.
        device, dtype: of the parameters; densities are computed in the wider of `dtype`, float32 and the input's type.

    Attributes:
        converged: whether the last fit met its tolerance.
        n_iter: its number of iterations.
        lower_bound: its last objective per point, in nats: the mean log-likelihood less a term of the size of the
            regularisation, before the last update of the parameters.
        history: the objective of each iteration, (n_iter,) float64.
        jitter: (K,) float64, what had to be added to a standardised covariance, beyond the regularisation, to
            factorise it.

    Examples:
        >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> mixture = GaussianMixture(n_components=3, n_features=2).fit(x, seed=0)
        >>> mixture.log_prob(x).shape
        torch.Size([1000])
    """

    location: Tensor
    fitted: Tensor

    @torch.inference_mode(False)  # what is made in it could not be fitted or differentiated outside
    def __init__(
        self,
        n_components: int,
        n_features: int,
        covariance_type: CovarianceType = "full",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if n_components < 1:
            raise ValueError(f"n_components: expected at least 1; got {n_components}")
        if n_features < 1:
            raise ValueError(f"n_features: expected at least 1; got {n_features}")
        self.n_components = n_components
        self.n_features = n_features
        self.covariance_type = covariance_type
        self.family = get_family(covariance_type)
        device = torch.get_default_device() if device is None else torch.device(device)
        options: dict[str, Any] = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        self.logits = nn.Parameter(torch.zeros(n_components, **options), requires_grad=False)
        self.centred_means = nn.Parameter(torch.zeros(n_components, n_features, **options), requires_grad=False)
        raw = self.family.unconstrain(self.family.unit(n_components, n_features))
        self.raw_factors = nn.ParameterDict(
            {name: nn.Parameter(value.to(**options), requires_grad=False) for name, value in raw.items()}
        )
        self.register_buffer("location", torch.zeros(n_features, **options))
        self.register_buffer("fitted", torch.tensor(False, device=device))
        self._seen_fitted = False
        self._online: OnlineEM | None = None
        self.converged = False
        self.n_iter = 0
        self.lower_bound = -math.inf
        self.history = torch.empty(0, dtype=torch.float64, device="cpu")
        self.jitter = torch.zeros(n_components, dtype=torch.float64, device="cpu")

    def extra_repr(self) -> str:
        """Sizes and type, for `repr`."""
        return f"{self.n_components}, {self.n_features}, covariance_type={self.covariance_type!r}"

    # ---- parameters

    @property
    def weights(self) -> Tensor:
        """(K,), non-negative, summing to one."""
        with full_precision(self.location.device):
            return self.logits.softmax(0)

    @property
    def means(self) -> Tensor:
        """(K, D)."""
        return self.location + self.centred_means

    @property
    def covariances(self) -> Tensor:
        """(K, D, D) full, (D, D) tied, (K, D) diag, (K,) spherical: scikit-learn's shapes.

        A variance beyond the numbers of the mixture's type is rounded to zero or infinity, as any number would be: of
        float32 features with a spread below 1e-19 or above 1e19, say. Densities need none, and `.double()` has them.
        """
        with full_precision(self.location.device):
            factors = self.parameters_about_location(widest(self.location.device)).factors
            return self.family.covariances(factors, self.n_features).to(self.location.dtype)

    @property
    def dense_covariances(self) -> Tensor:
        """(K, D, D), whatever the type."""
        with full_precision(self.location.device):
            factors = self.parameters_about_location(widest(self.location.device)).factors
            return self.family.dense(factors, self.n_components, self.n_features).to(self.location.dtype)

    def parameters_about_location(self, dtype: torch.dtype | None = None) -> Parameters:
        """The constrained parameters, with means relative to `location`; differentiable in the stored ones.

        Args:
            dtype: what to compute them in; None for the stored type.
        """
        dtype = dtype or self.location.dtype
        with full_precision(self.location.device):
            factors = self.family.constrain({name: value.to(dtype) for name, value in self.raw_factors.items()})
            return Parameters(self.logits.to(dtype).log_softmax(0), self.centred_means.to(dtype), factors)

    @torch.inference_mode(False)
    @torch.no_grad()
    def assign(self, parameters: Parameters, location: Tensor) -> Self:
        """Take over constrained `parameters` whose means are relative to `location` (D,).

        Raises:
            ValueError: a tensor has another shape than the mixture's.
        """
        pairs = {"log_weights": (self.logits, parameters.log_weights), "location": (self.location, location)}
        pairs["means"] = (self.centred_means, parameters.means)
        raw = self.family.unconstrain(parameters.factors)
        pairs |= {name: (self.raw_factors[name], raw[name]) for name in self.raw_factors}
        for name, (mine, given) in pairs.items():
            if mine.shape != given.shape:
                raise ValueError(f"{name}: expected shape {tuple(mine.shape)}; got {tuple(given.shape)}")
        for mine, given in pairs.values():
            mine.copy_(given.to(mine.dtype))
        # What the stored location loses by rounding goes to the means, which are small and keep it.
        lost = location - self.location.to(location.device).to(location.dtype)
        self.centred_means.copy_((parameters.means + lost).to(self.centred_means.dtype))
        self.fitted.fill_(True)
        self._seen_fitted = True
        self._online = None  # it follows other parameters
        return self

    @torch.inference_mode(False)
    @torch.no_grad()
    def set_parameters(self, weights: Tensor, means: Tensor, covariances: Tensor) -> Self:
        """Take over weights (K,), means (K, D) and covariances in the type's shape, in raw coordinates.

        Raises:
            ValueError: a wrong shape, NaN or infinity, weights that are no distribution, a covariance that is not
                symmetric and positive definite.
        """
        given = {"weights": weights, "means": means, "covariances": covariances}
        for name, value in given.items():
            expected = getattr(self, name).shape
            if value.shape != expected:
                raise ValueError(f"{name}: expected shape {tuple(expected)}; got {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: expected finite numbers; got NaN or infinity")
        total = float(weights.double().sum())
        if bool((weights < 0).any()) or abs(total - 1) > 1e-3:
            raise ValueError(
                f"weights: expected non-negative numbers that sum to 1; got a sum of {total:g} and a smallest of "
                f"{float(weights.min()):g}"
            )
        device = summing_device(self.location.device)
        weights, means, covariances = (value.to(device).double() for value in (weights, means, covariances))
        location = means.mean(0)
        factors = self.family.from_covariances(covariances)
        return self.assign(Parameters(weights.log(), means - location, factors), location)

    # ---- fitting

    @torch.inference_mode(False)
    def fit(
        self,
        x: Points,
        *,
        max_iter: int = 100,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        reg_mode: Literal["relative", "absolute"] = "relative",
        prior_count: float = 0.0,
        weight_concentration: float = 1.0,
        shrinkage: Literal["oas"] | None = None,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Tensor | None = None,
        means_init: Tensor | None = None,
        precisions_init: Tensor | None = None,
        sample_weight: Tensor | np.ndarray | None = None,
        seed: int = 0,
        on_iteration: Callable[[int, Tensor], None] | None = None,
    ) -> Self:
        """Fit by EM; a fit on finite data that the mixture's type can describe neither raises nor leaves NaN behind.

        It can describe numbers up to an eighth of its largest (4e37 in float32, 2e307 in float64) and features that are
        constant or have a standard deviation from 1e-31 in float32, 1e-292 in float64. Others are refused before EM
        begins.

        With a process group of torch.distributed, every process gives its own share of the points (shares may be
        uneven or empty) and all end with the same mixture.

        Args:
            x: (N, D) tensor or array, or an iterable of batches that can be read again at every pass; see `Batches`.
            max_iter, tol, reg_covar, reg_mode, prior_count, weight_concentration, shrinkage, n_init, init_params,
                weights_init, means_init, precisions_init, seed: see `EMOptions`.
            sample_weight: (N,), >= 0. A weight of two, others having one, is the point twice, of zero the point left
                out. A constant that all are multiplied by does not change the fit, priors included.
            on_iteration: called with the number of the iteration and its objective per point (R,), a tensor on the
                device, in standardised coordinates; for progress bars.

        Returns:
            self.

        Raises:
            ValueError: NaN, infinity or numbers out of range, wrong shape, fewer points than components, an option out
                of range.
            TypeError: x is not floating point.
        """
        options = EMOptions(
            max_iter=max_iter,
            tol=tol,
            reg_covar=reg_covar,
            reg_mode=reg_mode,
            prior_count=prior_count,
            weight_concentration=weight_concentration,
            shrinkage=shrinkage,
            n_init=n_init,
            init_params=init_params,
            weights_init=weights_init,
            means_init=means_init,
            precisions_init=precisions_init,
            seed=seed,
        )
        em = self.start_em(options)
        batches = Batches(x, self.n_features, em.device, sample_weight)
        while not em.done:
            n_iter = em.n_iter
            em.advance(em.collect(batches).reduce())
            if on_iteration is not None and em.n_iter > n_iter:
                on_iteration(em.n_iter, em.history[-1])
        return self.adopt(em)

    def start_online(
        self,
        *,
        power: float = 0.6,
        offset: float = 2.0,
        window: int | None = None,
        n_first: int | None = None,
        **options: Any,
    ) -> OnlineEM:
        """A follower of a stream of points, see `OnlineEM`; hand its `result` to `assign` when it is wanted.

        Goes on from the mixture's parameters where it has some.

        Args:
            power, offset, window, n_first: see `OnlineEM`.
            **options: see `EMOptions`; `reg_covar` is 1e-3 and `max_iter`, for the first points, 10 unless given.
        """
        em = self.start_em(EMOptions(**{"max_iter": 10, "tol": 0.0, "reg_covar": 1e-3, **options}))
        known = None
        if bool(self.fitted):
            about = self.parameters_about_location().map(lambda value: value.to(em.device))
            known = (about, self.location.to(em.device))
        return OnlineEM(em, known, power=power, offset=offset, window=window, n_first=n_first)

    @torch.inference_mode(False)
    def partial_fit(self, x: Tensor, sample_weight: Tensor | None = None, **options: Any) -> Self:
        """Take in a batch of a stream by stepwise EM, see `OnlineEM`; what earlier calls took in is kept.

        Has parameters as soon as enough points have come to start from (`n_first`), or before, if it had some.

        Args:
            x: (n, D).
            sample_weight: (n,), >= 0.
            **options: of `start_online`, looked at in the first call.

        Raises:
            ValueError, TypeError: wrong shape, type or option.
        """
        online = self._online or self.start_online(**options)
        online.update(x, sample_weight)
        if online.started:
            self.assign(*online.result())
        self._online = online  # goes on until other parameters are assigned
        return self

    def start_em(self, options: EMOptions) -> EM:
        """An EM machine for this mixture's family, sizes, device and computing type.

        Raises:
            ValueError: initial values of the wrong shape, not finite, or no weights or precisions.
        """
        self._check_init(options)
        if options.shrinkage is not None and not self.family.shrinks:
            raise ValueError(
                f"shrinkage: expected a family with covariances of its own, full or tied; got {self.covariance_type!r}"
            )
        stored = self.location.dtype
        dtype = torch.float64 if stored == torch.float64 else torch.float32
        device = summing_device(self.location.device)
        return EM(self.family, self.n_components, self.n_features, options, dtype, device, stored)

    def _check_init(self, options: EMOptions) -> None:
        shapes = {
            "weights_init": (self.n_components,),
            "means_init": (self.n_components, self.n_features),
            "precisions_init": tuple(self.covariances.shape),
        }
        for name, shape in shapes.items():
            value = getattr(options, name)
            if value is None:
                continue
            if tuple(value.shape) != shape:
                raise ValueError(f"{name}: expected shape {shape}; got {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: expected finite numbers; got NaN or infinity")
        weights, precisions = options.weights_init, options.precisions_init
        if weights is not None and (bool((weights < 0).any()) or not bool((weights > 0).any())):
            raise ValueError("weights_init: expected numbers >= 0, one at least positive; got others")
        if precisions is not None:
            self.family.from_precisions(precisions.double())

    def adopt(self, em: EM) -> Self:
        """Take over the result of a finished `em`; a `ConvergenceWarning` where it did not converge."""
        em.warn_unless_converged(stacklevel=3)
        self.assign(*em.result())
        self.converged = em.converged
        self.n_iter = em.n_iter
        self.history = em.lower_bounds().cpu()
        self.lower_bound = float(self.history[-1])
        self.jitter = em.jitter[em.best].cpu()
        return self

    # ---- densities

    def log_joint(self, x: Tensor) -> Tensor:
        """log w_k + log N(x | mean_k, covariance_k): (N, K), in nats, differentiable in x and the parameters."""
        x = self._points(x)
        parameters = self._computing_parameters(x)
        if self._in_one_piece(x):
            return self._log_joint(x, parameters)
        return torch.cat([self._log_joint(part, parameters) for part in x.split(self._chunk(x))])

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density log p(x) in nats, of x (N, D): (N,).

        Exact path: every point is centred on every mean before it is whitened. Memory is bounded by a chunk while no
        gradient is asked for. Autocast does not reach it; a backward pass belongs outside of autocast, as torch asks.
        """
        x = self._points(x)
        parameters = self._computing_parameters(x)
        if self._in_one_piece(x):
            return self._log_joint(x, parameters).logsumexp(-1)
        parts = [self._log_joint(part, parameters).logsumexp(-1) for part in x.split(self._chunk(x))]
        return torch.cat(parts)

    def forward(self, x: Tensor) -> Tensor:
        """`log_prob`."""
        return self.log_prob(x)

    def score(self, x: Tensor, sample_weight: Tensor | None = None) -> float:
        """Mean log-likelihood per point in nats, as scikit-learn's `score`; higher is better.

        Args:
            x: (N, D), N >= 1.
            sample_weight: (N,), >= 0.

        Raises:
            ValueError: no points, or weights that are negative, not finite, all zero or of another length.
        """
        if len(x) == 0:
            raise ValueError("x: expected at least one point; got none")
        with torch.no_grad():
            log_prob = self.log_prob(x).double()
        if sample_weight is None:
            return float(log_prob.mean())
        weight = check_weight(sample_weight, len(x)).to(log_prob)
        return float(log_prob @ (weight / weight.sum()))

    def predict_proba(self, x: Tensor) -> Tensor:
        """Posterior probabilities of the components (responsibilities), (N, K)."""
        return self.log_joint(x).softmax(-1)

    def predict(self, x: Tensor) -> Tensor:
        """Most probable component of each point, (N,) int64."""
        x = self._points(x)
        parameters = self._computing_parameters(x)
        parts = [x] if is_traced() else x.split(self._chunk(x))
        with torch.no_grad():
            return torch.cat([self._log_joint(part, parameters).argmax(-1) for part in parts])

    def _log_joint(self, x: Tensor, parameters: Parameters) -> Tensor:
        with full_precision(x.device):
            x = x - self.location
            distance = self.family.squared_distance(x, parameters.means, parameters.factors)
            # Of a point so far away that its distance overflows (or is the difference of two that did): the largest.
            largest = torch.finfo(distance.dtype).max / 4
            known = (distance <= largest) | x.isnan().any(-1, keepdim=True)
            distance = torch.where(known, distance, torch.full_like(distance, largest))
            log_det = self.family.log_det(parameters.factors, self.n_features)
            return parameters.log_weights + log_normal(distance, log_det, self.n_features)

    def _computing_parameters(self, x: Tensor) -> Parameters:
        """The constrained parameters in the computing type, which x already has."""
        return self.parameters_about_location(x.dtype)

    def require_fitted(self) -> None:
        """Raise `NotFittedError` unless there are parameters."""
        if is_traced() or self._seen_fitted:
            return
        # Reading the flag makes the host wait for the device: once is enough.
        self._seen_fitted = bool(self.fitted)
        if not self._seen_fitted:
            raise NotFittedError("the mixture has no parameters yet: call fit(x) or set_parameters(...) first")

    def _load_from_state_dict(self, *args: Any) -> None:
        self._seen_fitted = False
        self._online = None
        super()._load_from_state_dict(*args)

    def _points(self, x: Tensor) -> Tensor:
        """x checked, in the computing type: the widest of x's, the parameters' and float32."""
        self.require_fitted()
        if not torch.compiler.is_compiling():
            if not isinstance(x, Tensor):
                raise TypeError(f"x: expected a tensor; got {type(x).__name__}: convert it with torch.as_tensor(x)")
            check_points(x, self.n_features)
            if x.device != self.location.device:
                raise ValueError(
                    f"x: expected on the mixture's device {self.location.device}; got {x.device}: move one of them"
                )
        return x.to(torch.promote_types(torch.promote_types(x.dtype, self.location.dtype), torch.float32))

    def _in_one_piece(self, x: Tensor) -> bool:
        if is_traced():
            return True
        needs_grad = x.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        return (torch.is_grad_enabled() and needs_grad) or len(x) <= self._chunk(x)

    def _chunk(self, x: Tensor) -> int:
        bytes_per_point = x.element_size() * self.n_components * self.n_features
        return max(16, budget(x.device, **CHUNK_BYTES) // bytes_per_point)

    # ---- sampling and information criteria

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points drawn from the mixture, (n, D), without gradient.

        Raises:
            ValueError: n is not positive.
        """
        return self.rsample(n, generator)

    def rsample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points drawn from the mixture, (n, D), differentiable in the means and covariances.

        A draw is mean_k + (factor of covariance_k) noise with k drawn first: the gradient of an expectation is right in
        the means and the covariances. The choice of k has no gradient, so none reaches the weights; for those, weigh
        the draws by `log_prob` (the score-function estimator).

        Raises:
            ValueError: n is not positive.
        """
        self.require_fitted()
        if n < 1:
            raise ValueError(f"n: expected at least 1; got {n}")
        device, dtype = self.location.device, self.location.dtype
        weights = self.weights.detach().to(widest(device))
        component = torch.multinomial(weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.n_features, generator=generator, dtype=dtype, device=device)
        with full_precision(device):
            parameters = self.parameters_about_location()
            deviation = self.family.transform_noise(noise, component, parameters.factors)
            return self.location + parameters.means[component] + deviation

    def to_distribution(self) -> MixtureSameFamily:
        """The mixture as a distribution of torch.distributions, which shares its gradients; K D^2 memory.

        Raises:
            NotFittedError: there are no parameters yet.
        """
        self.require_fitted()
        components = MultivariateNormal(self.means, self.dense_covariances, validate_args=False)
        return MixtureSameFamily(Categorical(logits=self.logits), components, validate_args=False)

    def n_parameters(self) -> int:
        """Number of free parameters: weights, means and covariances."""
        k, d = self.n_components, self.n_features
        return k - 1 + k * d + self.family.n_parameters(k, d)

    def bic(self, x: Tensor) -> float:
        """Bayesian information criterion on x; lower is better (Schwarz 1978)."""
        return -2 * self.score(x) * len(x) + self.n_parameters() * math.log(len(x))

    def aic(self, x: Tensor) -> float:
        """Akaike information criterion on x; lower is better (Akaike 1974)."""
        return -2 * self.score(x) * len(x) + 2 * self.n_parameters()
