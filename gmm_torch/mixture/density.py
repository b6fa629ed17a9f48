"""The density of a Gaussian mixture: parameters, log-probabilities, draws."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from gmm_torch.checks import check_count, check_tensor
from gmm_torch.devices import budget, full_precision, summing_device, widest
from gmm_torch.errors import NotFittedError
from gmm_torch.mixture import missing as missing_features
from gmm_torch.mixture.batches import ROWS, Array, as_tensor, check_points, check_weight, readable
from gmm_torch.mixture.covariance import CovarianceType, get_family
from gmm_torch.mixture.linear_algebra import log_normal
from gmm_torch.mixture.parameters import Parameters
from gmm_torch.mixture.stepwise import OnlineEM

__all__ = ["MixtureDensity", "is_traced"]

# Bytes of the centred points (n, K, D) of a chunk without gradients. On a CPU this is about the size of its cache; a
# larger chunk makes scoring three times as slow.
_CHUNK_BYTES = {"host": 2**22, "accelerator": 2**28}


def is_traced() -> bool:
    """True if torch.compile, torch.export or a transform of torch.func runs this code, so values can't be read."""
    return torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None


class MixtureDensity(nn.Module):
    """Density of a mixture of K Gaussians over D features; `GaussianMixture` adds the fits."""

    location: Tensor
    fitted: Tensor

    @torch.inference_mode(False)  # inference tensors could not be fitted or differentiated outside
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
        check_count("n_components", n_components)
        check_count("n_features", n_features)
        self.n_components = n_components
        self.n_features = n_features
        self.covariance_type = covariance_type
        self.family = get_family(covariance_type)
        device = torch.get_default_device() if device is None else torch.device(device)
        options: dict[str, Any] = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        self.logits = nn.Parameter(torch.zeros(n_components, **options), requires_grad=False)
        self.centred_means = nn.Parameter(torch.zeros(n_components, n_features, **options), requires_grad=False)
        with device:
            raw = self.family.unconstrain(self.family.unit(n_components, n_features))
        self.raw_factors = nn.ParameterDict(
            {name: nn.Parameter(value.to(**options), requires_grad=False) for name, value in raw.items()}
        )
        self.register_buffer("location", torch.zeros(n_features, **options))
        self.register_buffer("fitted", torch.tensor(False, device=device))
        self._seen_fitted = False
        self._online_options: dict[str, Any] = {}
        self._forget_fit()

    def _forget_fit(self) -> None:
        """Reset what describes the last fit or stream: the parameters come from elsewhere."""
        self._online: OnlineEM | None = None
        self.n_points = self.n_iter = 0
        self.converged, self.lower_bound = False, -math.inf
        self.history = torch.empty(0, dtype=torch.float64, device="cpu")
        self.jitter = torch.zeros((), dtype=torch.float64, device="cpu").expand(self.n_components)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Sizes, covariance type and state of the fit, for `repr`."""
        if self.n_points:
            how = "converged in" if self.converged else "not converged after"
            fit = f"fitted to {self.n_points:,} points, {how} {self.n_iter} iteration{'s' * (self.n_iter != 1)}"
        else:
            known = not self.fitted.is_meta and self.is_fitted
            fit = "parameters set, loaded or from a stream" if known else "not fitted"
        return f"{self.n_components}, {self.n_features}, covariance_type={self.covariance_type!r}; {fit}"

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

        A variance beyond the range of the mixture's type becomes zero or infinity, for instance a float32 feature with
        a spread below 1e-19 or above 1e19. Densities do not need the covariances; use `.double()` to read them.
        """
        with full_precision(self.location.device):
            factors = self.parameters_about_location(widest(self.location.device)).factors
            return self.family.covariances(factors, self.n_features).to(self.location.dtype)

    @property
    def dense_covariances(self) -> Tensor:
        """(K, D, D), for every covariance type."""
        with full_precision(self.location.device):
            factors = self.parameters_about_location(widest(self.location.device)).factors
            return self.family.dense(factors, self.n_components, self.n_features).to(self.location.dtype)

    def parameters_about_location(self, dtype: torch.dtype | None = None) -> Parameters:
        """Constrained parameters in `dtype` or the stored type, with means relative to `location`; differentiable."""
        dtype = dtype or self.location.dtype
        with full_precision(self.location.device):
            factors = self.family.constrain({name: value.to(dtype) for name, value in self.raw_factors.items()})
            return Parameters(self.logits.to(dtype).log_softmax(0), self.centred_means.to(dtype), factors)

    @torch.inference_mode(False)
    @torch.no_grad()
    def assign(self, parameters: Parameters, location: Tensor) -> Self:
        """Store constrained `parameters` with means relative to `location` (D,), as a fit returns them.

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
        # The means are small and can keep what the location loses by rounding.
        lost = location - self.location.to(location.device).to(location.dtype)
        self.centred_means.copy_((parameters.means + lost).to(self.centred_means.dtype))
        self.fitted.fill_(True)
        self._seen_fitted = True
        self._forget_fit()  # a fit or a stream describes itself after this call
        return self

    @torch.inference_mode(False)
    @torch.no_grad()
    def set_parameters(self, weights: Tensor, means: Tensor, covariances: Tensor) -> Self:
        """Set weights (K,), means (K, D) and covariances in the type's shape, in raw coordinates.

        Raises:
            ValueError: a wrong shape, NaN or infinity, weights that are no distribution, a covariance that is not
                symmetric and positive definite.
        """
        given = {"weights": weights, "means": means, "covariances": covariances}
        for name, value in given.items():
            check_tensor(name, value, getattr(self, name).shape)
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

    @property
    def is_fitted(self) -> bool:
        """True if there are parameters."""
        if is_traced():
            return True
        # Reading the flag waits for the device: once is enough.
        self._seen_fitted = self._seen_fitted or bool(self.fitted)
        return self._seen_fitted

    def require_fitted(self) -> None:
        """Raise `NotFittedError` unless there are parameters."""
        if not self.is_fitted:
            raise NotFittedError("the mixture has no parameters yet: call fit(x) or set_parameters(...) first")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        own = {prefix + name for name, _ in (*self.named_parameters(), *self.named_buffers())}
        if not own.isdisjoint(state_dict):
            self._seen_fitted = False
            self._forget_fit()
        super()._load_from_state_dict(state_dict, prefix, *args)

    # ---- densities

    def log_joint(self, x: Array) -> Tensor:
        """log w_k + log N(x | mean_k, covariance_k): (N, K), in nats, differentiable in x and the parameters."""
        return self._in_chunks(x, lambda joint: joint)

    def log_prob(self, x: Array, *, missing: bool = False) -> Tensor:
        """Log-density log p(x) in nats, of x (N, D): (N,).

        Every point is centred on every mean before whitening, which is accurate to the last digits. Memory is bounded
        by a chunk if no gradient is needed. Autocast does not apply; call `backward` outside of autocast.

        Args:
            x: (N, D), in this and every other method a tensor on the mixture's device or an array.
            missing: NaN stands for a feature that was not observed. The result is the density of the other features,
                (N,) float64 without gradient, 0 if nothing was observed. By default a point with NaN gives NaN.

        Raises:
            ValueError, TypeError: wrong shape or type; with `missing`, infinity.
        """
        if missing:
            return self._with_missing(missing_features.log_prob, x)
        return self._in_chunks(x, lambda joint: joint.logsumexp(-1))

    def impute(self, x: Array) -> Tensor:
        """x (N, D) with NaN replaced by the expectation of that feature given the observed ones.

        Raises:
            ValueError, TypeError: wrong shape or type; infinity.
        """
        return self._with_missing(missing_features.impute, x)

    def forward(self, x: Array) -> Tensor:
        """`log_prob`."""
        return self.log_prob(x)

    def score(self, x: Array, sample_weight: Array | None = None) -> float:
        """Mean log-likelihood in nats per point of x (N, D), N >= 1, with weights (N,) >= 0; higher is better.

        Raises:
            ValueError: no points, or weights that are negative, not finite, all zero or of another length.
        """
        with torch.no_grad():
            log_prob = self.log_prob(x).double()
        if len(log_prob) == 0:
            raise ValueError("x: expected at least one point; got none")
        if sample_weight is None:
            return float(log_prob.mean())
        weight = check_weight(sample_weight, len(log_prob)).to(log_prob)
        return float(log_prob @ (weight / weight.sum()))

    def predict_proba(self, x: Array) -> Tensor:
        """Posterior probabilities of the components (responsibilities), (N, K)."""
        return self.log_joint(x).softmax(-1)

    def predict(self, x: Array) -> Tensor:
        """Most probable component of each point, (N,) int64."""
        with torch.no_grad():
            return self._in_chunks(x, lambda joint: joint.argmax(-1))

    def _in_chunks(self, x: Array, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function` of the log-joint densities (n, K) of all points, in chunks if no gradient is needed."""

        def of_some(x: Array) -> Tensor:
            points = self._points(x)
            parameters = self.parameters_about_location(points.dtype)
            needs_grad = torch.is_grad_enabled() and (
                points.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
            )
            bytes_per_point = points.element_size() * self.n_components * self.n_features
            step = max(16, budget(points.device, **_CHUNK_BYTES) // bytes_per_point)
            parts = [points] if is_traced() or needs_grad or len(points) <= step else points.split(step)
            results = [function(self._log_joint(part, parameters)) for part in parts]
            return results[0] if len(results) == 1 else torch.cat(results)

        return self._by_rows(of_some, x)

    def _by_rows(self, function: Callable[[Array], Tensor], x: Array) -> Tensor:
        """`function` of the points; of a large array, which may be a memory map, `ROWS` rows at a time."""
        self.require_fitted()
        x = readable(x)
        if not isinstance(x, np.ndarray) or not x.ndim or len(x) <= ROWS:
            return function(x)
        check_points(x, self.n_features)
        return torch.cat([function(x[start : start + ROWS]) for start in range(0, len(x), ROWS)])

    def _with_missing(self, function: Callable[..., Tensor], x: Array) -> Tensor:
        """`function(family, parameters, location, x)` in float64, on the host if the device has no float64."""
        device = summing_device(self.location.device)

        def of_some(x: Array) -> Tensor:
            points = self._given(x)
            wide = self.parameters_about_location(widest(self.location.device))
            parameters = wide.map(lambda value: value.to(device).double())
            return function(self.family, parameters, self.location.to(device), points.to(device)).to(points.device)

        with full_precision(self.location.device), torch.no_grad():
            return self._by_rows(of_some, x)

    def _log_joint(self, x: Tensor, parameters: Parameters) -> Tensor:
        with full_precision(x.device):
            x = x - self.location
            distance = self.family.squared_distance(x, parameters.means, parameters.factors)
            # A distance that overflows, or is the difference of two that did, becomes the largest one.
            largest = torch.finfo(distance.dtype).max / 4
            known = (distance <= largest) | x.isnan().any(-1, keepdim=True)
            distance = torch.where(known, distance, torch.full_like(distance, largest))
            log_det = self.family.log_det(parameters.factors, self.n_features)
            return parameters.log_weights + log_normal(distance, log_det, self.n_features)

    def _given(self, x: Array) -> Tensor:
        """x checked, as a tensor; an array moves to the mixture's device."""
        x = readable(x)
        check_points(x, self.n_features)
        return x if isinstance(x, Tensor) else as_tensor(x).to(self.location.device)

    def _points(self, x: Array) -> Tensor:
        """x checked, in the widest of its type, the parameters' type and float32."""
        given = x if torch.compiler.is_compiling() and isinstance(x, Tensor) else self._given(x)
        return given.to(torch.promote_types(torch.promote_types(given.dtype, self.location.dtype), torch.float32))

    # ---- sampling and information criteria

    @torch.no_grad()
    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """n points drawn from the mixture, (n, D), without gradient; see `rsample`."""
        return self.rsample(n, seed)

    def rsample(self, n: int, seed: int | None = None) -> Tensor:
        """n >= 1 points drawn from the mixture, (n, D), differentiable in the means and covariances.

        A draw is mean_k + (factor of covariance_k) noise. The choice of k has no gradient, so none reaches the weights;
        for those, weight the draws by `log_prob` (the score-function estimator). Without a seed, torch's global
        generator is used.
        """
        self.require_fitted()
        check_count("n", n)
        device, dtype = self.location.device, self.location.dtype
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        weights = self.weights.detach().to(widest(device))
        component = torch.multinomial(weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.n_features, generator=generator, dtype=dtype, device=device)
        with full_precision(device):
            parameters = self.parameters_about_location()
            deviation = self.family.transform_noise(noise, component, parameters.factors)
            return self.location + parameters.means[component] + deviation

    def to_distribution(self) -> MixtureSameFamily:
        """The mixture as a distribution of torch.distributions, with shared gradients; K D^2 memory."""
        self.require_fitted()
        components = MultivariateNormal(self.means, self.dense_covariances, validate_args=False)
        return MixtureSameFamily(Categorical(logits=self.logits), components, validate_args=False)

    def n_parameters(self) -> int:
        """Number of free parameters: weights, means and covariances."""
        k, d = self.n_components, self.n_features
        return k - 1 + k * d + self.family.n_parameters(k, d)

    def bic(self, x: Array) -> float:
        """Bayesian information criterion on x; lower is better (Schwarz 1978)."""
        x = readable(x)
        return -2 * self.score(x) * len(x) + self.n_parameters() * math.log(len(x))

    def aic(self, x: Array) -> float:
        """Akaike information criterion on x; lower is better (Akaike 1974)."""
        x = readable(x)
        return -2 * self.score(x) * len(x) + 2 * self.n_parameters()
