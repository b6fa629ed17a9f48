"""The Gaussian mixture: fits, and what can be derived from a fitted one."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gmm_torch.checks import check_tensor
from gmm_torch.devices import full_precision, summing_device
from gmm_torch.distributed import sum_of_all
from gmm_torch.errors import ConvergenceWarning, warn
from gmm_torch.mixture.batches import Array, Batches, Points, as_tensor, check_weight, readable
from gmm_torch.mixture.density import MixtureDensity
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.implicit import EMStep, Fitted, implicit
from gmm_torch.mixture.linear_algebra import log_det_of_factor, robust_cholesky
from gmm_torch.mixture.missing import ConditionalNormal, fit_observed
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.stepwise import OnlineEM

__all__ = ["GaussianMixture"]


class GaussianMixture(MixtureDensity):
    """Mixture of K Gaussians over D features.

    Parameters are stored without constraints (logits of the weights, means relative to `location`, factors of the
    precisions with logarithmic diagonals), so an optimiser may change them; they require no gradient until
    `requires_grad_()` is called. `fit`, `partial_fit` and `set_parameters` set them.

    A fit is the same at every call, given `seed`. Draws use torch's generator unless they are given a seed. (The
    drop-in of `gmm_torch.sklearn` takes scikit-learn's `random_state`.)

    Args:
        n_components: K >= 1.
        n_features: D >= 1.
        covariance_type: "full", "tied", "diag", "spherical" or "low_rank", or a mapping with options of the family,
            {"name": "low_rank", "rank": 20}; see `gmm_torch.mixture.covariance`.
        device, dtype: of the parameters; torch's defaults if None. Densities are computed in the widest of `dtype`,
            float32 and the input's type. A fit computes in float64 if `dtype` is float64, else in float32 with sums in
            float64. For float64 points with digits beyond float32 use dtype=torch.float64 or `.double()` before `fit`.

    Attributes:
        n_points: number of points of positive weight in the last fit. It is 0, and the attributes below have their
            initial values, if the parameters are not from a fit in this process or a stream has changed them since.
        converged: True if the last fit met its tolerance.
        n_iter: its number of iterations.
        lower_bound: its last objective per point, in nats: the mean log-likelihood before the last update, less a term
            of the size of the regularisation.
        history: the objective of each iteration, (n_iter,) float64.
        jitter: (K,) float64, added to each standardised covariance, beyond the regularisation, to factorise it.

    Examples:
        >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> mixture = GaussianMixture(n_components=3, n_features=2).fit(x, seed=0)
        >>> mixture.log_prob(x).shape
        torch.Size([1000])
        >>> mixture.condition([0], torch.tensor([1.5])).n_features
        1
    """

    # ---- fitting

    @torch.inference_mode(False)
    def fit(
        self,
        x: Points,
        *,
        sample_weight: Array | None = None,
        missing: bool = False,
        on_iteration: Callable[[int, Tensor], None] | None = None,
        **options: Any,
    ) -> Self:
        """Fit by EM. On finite data in the range of the mixture's type, a fit neither raises nor leaves NaN.

        The range: numbers up to an eighth of the type's largest (4e37 in float32, 2e307 in float64); features that are
        constant or have a standard deviation from 1e-31 in float32, 1e-292 in float64.

        With a process group of torch.distributed, every process gives its own share of the points (shares may be
        uneven or empty) and all end with the same mixture.

        Args:
            x: (N, D) tensor or array, or an iterable of batches that can be read again at every pass; see `Batches`.
            sample_weight: (N,), >= 0. A weight of two counts the point twice, zero leaves it out. Multiplying all by a
                constant does not change the fit, priors included.
            missing: NaN stands for a feature that was not observed and is integrated out (values missing at random);
                tensor or array only. Slow if nearly every point has a different pattern. `reg_covar` is then a fraction
                of the observed variance.
            on_iteration: called with the number of the iteration and its objective per point (R,), a tensor on the
                device, in standardised coordinates; for progress bars.
            **options: of `EMOptions`: max_iter=100, tol=1e-3, reg_covar=1e-6, reg_mode, prior_count,
                weight_concentration, shrinkage, n_init=1, init_params="kmeans", weights_init, means_init,
                precisions_init, seed=0.

        Raises:
            ValueError: NaN, infinity or numbers out of range, wrong shape, fewer points than components, an option out
                of range; with `missing`, a feature or a point without any value.
            TypeError: x is not floating point, or with `missing` a stream of batches; an unknown option.
        """
        em = self.start_em(EMOptions(**options))
        if missing:
            x = self._given(x)  # type: ignore[arg-type]
            weight = None if sample_weight is None else check_weight(sample_weight, len(x)).to(em.device)
            fit_observed(em, x.detach().to(em.device), weight, on_iteration)
        else:
            em.run(Batches(x, self.n_features, em.device, sample_weight), on_iteration=on_iteration)
        return self.adopt(em)

    def start_online(
        self,
        *,
        window: int | None = None,
        n_first: int | None = None,
        n_known: int | None = None,
        **options: Any,
    ) -> OnlineEM:
        """Start an `OnlineEM` from the mixture's parameters, if it has some; `assign(*result())` sets the mixture.

        Args:
            window, n_first: see `OnlineEM`.
            n_known: number of points that the parameters stand for, those of the fit if None. With 0 they are fitted to
                the first points.
            **options: see `EMOptions`; `reg_covar` is 1e-3 and `max_iter`, for the first points, 10 by default.
        """
        em = self.start_em(EMOptions(**{"max_iter": 10, "tol": 0.0, "reg_covar": 1e-3, **options}))
        known = None
        if self.is_fitted:
            about = self.parameters_about_location().map(lambda value: value.to(em.device))
            known = about, self.location.to(em.device)
        n_known = self.n_points if n_known is None else n_known
        return OnlineEM(em, known, window=window, n_first=n_first, n_known=n_known)

    @torch.inference_mode(False)
    def partial_fit(self, x: Array, sample_weight: Array | None = None, **options: Any) -> Self:
        """Take in a batch of a stream by stepwise EM, see `OnlineEM`, after `fit` or earlier calls.

        A new mixture has parameters once `n_first` points have come. Batches should be mixed: after a stream in the
        order of the classes, the mixture describes the last ones.

        Args:
            x, sample_weight: (n, D), and (n,) >= 0.
            **options: of `start_online`, for the whole stream: a later call may repeat them, not change them.

        Raises:
            ValueError, TypeError: wrong shape, type or option; an option that differs from the stream's first call.
        """
        if self._online is None:
            online, self._online_options = self.start_online(**options), options
        else:
            online = self._online
            if not options.items() <= self._online_options.items():
                raise ValueError(
                    f"options: expected those of the stream's first call, {self._online_options}; got {options}"
                )
        x = readable(x)
        online.update(x, sample_weight)
        if online.started and sum_of_all(len(x), online.em.device):  # an empty batch changes nothing
            self.assign(*online.result())
        self._online = online  # `assign` ended the stream
        return self

    def start_em(self, options: EMOptions) -> EM:
        """Create an EM with this mixture's family, sizes, device and computing type.

        Raises:
            ValueError: initial values of the wrong shape, not finite, or no weights or precisions.
        """
        weights, means, precisions = options.weights_init, options.means_init, options.precisions_init
        given = {"weights_init": (weights, self.logits), "means_init": (means, self.centred_means)}
        for name, (value, like) in (given | {"precisions_init": (precisions, self.covariances)}).items():
            if value is not None:
                check_tensor(name, value, like.shape)
        if weights is not None and (bool((weights < 0).any()) or not bool((weights > 0).any())):
            raise ValueError("weights_init: expected numbers >= 0, at least one positive; got others")
        if precisions is not None:
            self.family.from_precisions(precisions.double())
        if options.shrinkage is not None and not self.family.shrinks:
            raise ValueError(f"shrinkage: expected covariance type full or tied; got {self.covariance_type!r}")
        stored = self.location.dtype
        dtype = torch.float64 if stored == torch.float64 else torch.float32
        device = summing_device(self.location.device)
        return EM(self.family, self.n_components, self.n_features, options, dtype, device, stored)

    def adopt(self, em: EM) -> Self:
        """Take over the result of a finished `em`; a `ConvergenceWarning` if it did not converge."""
        if not em.converged:
            warn(em.shortfall(), ConvergenceWarning)
        self.assign(*em.result())
        self.n_points = int(em.n_points)
        self.converged = em.converged
        self.n_iter = em.n_iter
        self.history = em.lower_bounds().cpu()
        self.lower_bound = float(self.history[-1])
        self.jitter = em.jitter[em.best].cpu()
        return self

    # ---- mixtures and distances from a mixture

    def marginal(self, features: Sequence[int]) -> Self:
        """The marginal distribution of some features.

        Args:
            features: distinct, in the order wanted. The result has the type "full".

        Raises:
            ValueError: no feature, one twice, or one that does not exist.
            NotFittedError: there are no parameters yet.
        """
        kept = self._chosen(features)
        weights, means, covariances = self._dense()
        return self._full(weights, means[:, kept], covariances[:, kept][:, :, kept])

    def condition(self, features: Sequence[int], values: Array) -> Self:
        """The distribution of the other features, in their order, given the values of some; it has the type "full".

        Args:
            features: the known ones; distinct, and not all.
            values: (len(features),).

        Raises:
            ValueError: no feature, one twice, all, or one that does not exist; values of another shape or not finite.
            NotFittedError: there are no parameters yet.
        """
        known = self._chosen(features)
        rest = [i for i in range(self.n_features) if i not in known]
        if not rest:
            raise ValueError("features: expected fewer than all; got all of them")
        values = as_tensor(values) if isinstance(values := readable(values), np.ndarray) else values
        check_tensor("values", values, (len(known),))
        weights, means, covariances = self._dense()
        index = (torch.tensor(each, device=means.device) for each in (known, rest))
        conditional = ConditionalNormal(means, covariances, *index)
        density, expected = conditional(values.to(means)[None])
        return self._full((weights.log() + density[:, 0]).softmax(0), expected[:, 0], conditional.covariances)

    @torch.no_grad()
    def drift_from(self, before: "GaussianMixture") -> Tensor:
        """Distance to an earlier state of the mixture: () float64, in nats, >= 0.

        The Bhattacharyya distance of each component to the nearest earlier one, averaged by its weight. So neither the
        order of the components matters, nor a component of almost no weight. Costs K^2 D^3.

        Raises:
            NotFittedError: a mixture has no parameters yet.
        """
        self.require_fitted()
        before.require_fitted()
        # Relative to one location: the means may be far from zero.
        means = self.centred_means.double() + (self.location.double() - before.location.double())
        others, covariances = before.centred_means.double(), self.dense_covariances.double()
        other_covariances = before.dense_covariances.double()
        half, other_half = (log_det_of_factor(robust_cholesky(v)[0]) / 2 for v in (covariances, other_covariances))
        nearest = []
        # (m_i - m_j)' S^-1 (m_i - m_j) / 8 + log(det S / sqrt(det S_i det S_j)) / 2 with S = (S_i + S_j) / 2
        for mean, covariance, half_log_det in zip(means, covariances, half, strict=True):
            middle, _ = robust_cholesky((other_covariances + covariance) / 2)
            white = torch.linalg.solve_triangular(middle, (others - mean)[..., None], upper=False)
            distance = white.square().sum((-2, -1)) / 8
            nearest.append((distance + log_det_of_factor(middle) / 2 - (other_half + half_log_det) / 2).amin())
        return self.weights.double() @ torch.stack(nearest)

    def _chosen(self, features: Sequence[int]) -> list[int]:
        chosen = [int(i) for i in features]
        if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= self.n_features:
            raise ValueError(f"features: expected distinct numbers from 0 to {self.n_features - 1}; got {chosen}")
        return chosen

    @torch.no_grad()
    def _dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (K,), means (K, D) and covariances (K, D, D) in float64."""
        self.require_fitted()
        return self.weights.double(), self.means.double(), self.dense_covariances.double()

    def _full(self, weights: Tensor, means: Tensor, covariances: Tensor) -> Self:
        empty = type(self)(len(means), means.shape[1], device=self.location.device, dtype=self.location.dtype)
        return empty.set_parameters(weights, means, covariances)

    # ---- gradients of a fit

    def implicit_fit(
        self,
        x: Array,
        sample_weight: Array | None = None,
        reg_covar: float = 1e-6,
        *,
        tol: float = 1e-9,
        max_iter: int = 2000,
    ) -> Fitted:
        """Parameters at EM's fixed point, with their gradient in the points and weights.

        At a fixed point t = F(t, x) of EM's map the implicit function theorem gives dt/dx = (I - dF/dt)^-1 dF/dx, so
        memory is that of one iteration. GMRES solves the linear system with one vector-Jacobian product of F per
        iteration. (See Bai, Kolter, Koltun, "Deep Equilibrium Models", 2019, theorem 1.) The search for the fixed point
        starts from the mixture, which is not changed. Each process fits its points alone.

        Args:
            x, sample_weight, reg_covar: as in `fit`; x on the mixture's device.
            tol: of the fixed point, the largest change of a standardised parameter in an iteration, and of the linear
                system, relative.
            max_iter: of EM, and of GMRES.

        Raises:
            ValueError, TypeError: bad shapes, types or numbers.
            NotFittedError: the mixture has no parameters to start from.
            SolverError: no fixed point, or in the backward pass no solution of the linear system, within `max_iter`
                iterations.
        """
        self.require_fitted()
        x = self._given(x)
        if sample_weight is not None:
            sample_weight = check_weight(sample_weight, len(x)).to(x.device)
        sizes = self.n_components, self.n_features
        with full_precision(self.location.device):
            em = EM(self.family, *sizes, EMOptions(reg_covar=reg_covar), torch.float64, self.location.device)
            step = EMStep(em, (self.parameters_about_location(), self.location), x, sample_weight)
            return implicit(step, tol, max_iter)
