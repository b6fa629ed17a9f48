"""The Gaussian mixture: fits, and what can be asked of a fitted one."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from operator import attrgetter
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_tensor
from gmm_torch.devices import full_precision, summing_device
from gmm_torch.distributed import sum_of_all
from gmm_torch.errors import ConvergenceWarning
from gmm_torch.mixture.batches import Array, Batches, Points, as_tensor, check_points, check_weight, readable
from gmm_torch.mixture.covariance import CovarianceType
from gmm_torch.mixture.density import MixtureDensity
from gmm_torch.mixture.divergences import bhattacharyya
from gmm_torch.mixture.em import EM
from gmm_torch.mixture.implicit import EMStep, Fitted, implicit, unrolled
from gmm_torch.mixture.missing import ConditionalNormal, fit_observed
from gmm_torch.mixture.model_selection import Candidate, ModelSelection
from gmm_torch.mixture.options import EMOptions
from gmm_torch.mixture.stepwise import OnlineEM


class Estimate(NamedTuple):
    """A Monte Carlo estimate and its standard error, in nats."""

    value: float
    standard_error: float


class GaussianMixture(MixtureDensity):
    """Mixture of K Gaussians over D features.

    The parameters are stored without constraints (logits of the weights, means relative to `location`, factors of the
    precisions with logarithms on their diagonals), so an optimiser may move them; they ask for no gradient until
    `requires_grad_()` is called. They are set by `fit` and `partial_fit`, or from outside by `set_parameters`.

    Random numbers come from `seed` everywhere: fits and estimates are the same at every call, draws are torch's unless
    they are given one. (The drop-in of `gmm_torch.sklearn` takes scikit-learn's `random_state`.)

    Args:
        n_components: K >= 1.
        n_features: D >= 1.
        covariance_type: "full", "tied", "diag", "spherical" or "low_rank", or a mapping of a name and options of that
            family, {"name": "low_rank", "rank": 20}; see `gmm_torch.mixture.covariance`.
        device, dtype: of the parameters, float32 unless torch's default is another; densities are computed in the wider
            of `dtype`, float32 and the input's type. A fit computes in float64 where `dtype` is that, else in float32
            with sums in float64, whatever the points' type: for float64 points with digits beyond float32 give
            dtype=torch.float64, or call `.double()` before `fit`.

    Attributes:
        n_points: how many points of positive weight the last fit had. It is 0, and what follows is as before a fit,
            where the parameters are not of a fit in this process, or a stream has changed them since.
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
        """Fit by EM; a fit on finite data that the mixture's type can describe neither raises nor leaves NaN behind.

        It can describe numbers up to an eighth of its largest (4e37 in float32, 2e307 in float64) and features that are
        constant or have a standard deviation from 1e-31 in float32, 1e-292 in float64. Others are refused before EM
        begins.

        With a process group of torch.distributed, every process gives its own share of the points (shares may be
        uneven or empty) and all end with the same mixture.

        Args:
            x: (N, D) tensor or array, or an iterable of batches that can be read again at every pass; see `Batches`.
                Computed with in the mixture's type, not in that of x.
            sample_weight: (N,), >= 0. A weight of two, others having one, is the point twice, of zero the point left
                out. A constant that all are multiplied by does not change the fit, priors included.
            missing: NaN stands for a feature that was not observed, and is integrated out (values missing at random);
                an array or tensor only. Slow where nearly every point has a pattern of its own. `reg_covar` is then a
                fraction of the observed variance.
            on_iteration: called with the number of the iteration and its objective per point (R,), a tensor on the
                device, in standardised coordinates; for progress bars.
            **options: of `EMOptions`: max_iter=100, tol=1e-3, reg_covar=1e-6, reg_mode, prior_count,
                weight_concentration, shrinkage, n_init=1, init_params="kmeans", weights_init, means_init,
                precisions_init, seed=0.

        Raises:
            ValueError: NaN, infinity or numbers out of range, wrong shape, fewer points than components, an option out
                of range; with `missing`, a feature or a point without any value.
            TypeError: x is not floating point, or with `missing` a stream of batches; an option that there is not.
        """
        em = self.start_em(EMOptions.of(options))
        if missing:
            x = readable(x)
            if not isinstance(x, Tensor | np.ndarray):
                raise TypeError(f"x: expected a tensor or an array with missing=True; got {type(x).__name__}: give one")
            check_points(x, self.n_features)
            weight = None if sample_weight is None else check_weight(sample_weight, len(x)).to(em.device)
            fit_observed(em, as_tensor(x).detach().to(em.device), weight, on_iteration)
        else:
            em.run(Batches(x, self.n_features, em.device, sample_weight), on_iteration=on_iteration)
        return self.adopt(em)

    def start_online(
        self,
        *,
        power: float = 0.6,
        offset: float = 2.0,
        window: int | None = None,
        n_first: int | None = None,
        n_known: int | None = None,
        **options: Any,
    ) -> OnlineEM:
        """A follower of a stream of points, see `OnlineEM`; hand its `result` to `assign` when it is wanted.

        Goes on from the mixture's parameters where it has some.

        Args:
            power, offset, window, n_first: see `OnlineEM`.
            n_known: how many points of the stream the mixture's parameters stand for, those of its fit if None; where
                none are known (0), it is fitted to the first points from there.
            **options: see `EMOptions`; `reg_covar` is 1e-3 and `max_iter`, for the first points, 10 unless given.
        """
        em = self.start_em(EMOptions.of({"max_iter": 10, "tol": 0.0, "reg_covar": 1e-3, **options}))
        known = None
        if self.is_fitted:
            about = self.parameters_about_location().map(lambda value: value.to(em.device))
            known = about, self.location.to(em.device)
        n_known = self.n_points if n_known is None else n_known
        return OnlineEM(em, known, power=power, offset=offset, window=window, n_first=n_first, n_known=n_known)

    @torch.inference_mode(False)
    def partial_fit(self, x: Array, sample_weight: Array | None = None, **options: Any) -> Self:
        """Take in a batch of a stream by stepwise EM, see `OnlineEM`; what `fit` or earlier calls took in is kept.

        Has parameters as soon as enough points have come to start from (`n_first`), or before, if it had some. Batches
        should be mixed: of a stream in order, class by class, it describes what came last.

        Args:
            x, sample_weight: (n, D), and (n,) >= 0.
            **options: of `start_online`, for the whole stream: a later call may repeat them, not change them.

        Raises:
            ValueError, TypeError: wrong shape, type or option; an option that the stream did not begin with.
        """
        if self._online is None:
            online, self._online_options = self.start_online(**options), options
        else:
            online, begun = self._online, self._online_options
            for name, value in options.items():
                same = value is begun.get(name) or (not isinstance(value, Tensor) and value == begun.get(name))
                if name not in begun or not same:
                    raise ValueError(
                        f"{name}: expected what the stream began with, {begun.get(name, 'the default')}; got {value}: "
                        "give options in the first call"
                    )
        x = readable(x)
        online.update(x, sample_weight)
        if online.started and sum_of_all(len(x), online.em.device):  # else all stays, what is known of the fit as well
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
            "weights_init": self.logits.shape,
            "means_init": self.centred_means.shape,
            "precisions_init": self.covariances.shape,
        }
        for name, shape in shapes.items():
            if getattr(options, name) is not None:
                check_tensor(name, getattr(options, name), shape)
        weights, precisions = options.weights_init, options.precisions_init
        if weights is not None and (bool((weights < 0).any()) or not bool((weights > 0).any())):
            raise ValueError("weights_init: expected numbers >= 0, one at least positive; got others")
        if precisions is not None:
            self.family.from_precisions(precisions.double())

    def adopt(self, em: EM) -> Self:
        """Take over the result of a finished `em`; a `ConvergenceWarning` where it did not converge."""
        em.warn_unless_converged()
        self.assign(*em.result())
        self.n_points = int(em.n_points)
        self.converged = em.converged
        self.n_iter = em.n_iter
        self.history = em.lower_bounds().cpu()
        self.lower_bound = float(self.history[-1])
        self.jitter = em.jitter[em.best].cpu()
        return self

    # ---- mixtures from a mixture

    def marginal(self, features: Sequence[int]) -> Self:
        """The distribution of some features, whatever the others are.

        Args:
            features: which of them, in the order wanted; none twice. The result is of the type "full".

        Raises:
            ValueError: no feature, one twice, or one that does not exist.
            NotFittedError: there are no parameters yet.
        """
        kept = self._chosen(features)
        weights, means, covariances = self._dense()
        return self._full(weights, means[:, kept], covariances[:, kept][:, :, kept])

    def condition(self, features: Sequence[int], values: Array) -> Self:
        """The distribution of the other features, given the values of some.

        The result is of the type "full", over these others in their order.

        Args:
            features: which are known; none twice, and not all.
            values: (len(features),), what they are.

        Raises:
            ValueError: no feature, one twice, all, or one that does not exist; values of another shape or not finite.
            NotFittedError: there are no parameters yet.
        """
        known = self._chosen(features)
        rest = [i for i in range(self.n_features) if i not in known]
        if not rest:
            raise ValueError("features: expected some to be left unknown; got all of them")
        values = as_tensor(values) if isinstance(values := readable(values), np.ndarray) else values
        check_tensor("values", values, (len(known),))
        weights, means, covariances = self._dense()
        index = (torch.tensor(each, device=means.device) for each in (known, rest))
        conditional = ConditionalNormal(means, covariances, *index)
        density, expected = conditional(values.to(means)[None])
        return self._full((weights.log() + density[:, 0]).softmax(0), expected[:, 0], conditional.covariances)

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

    # ---- entropy and distances, which have no closed form for mixtures

    @torch.no_grad()
    def entropy(self, n_samples: int = 10_000, seed: int = 0) -> Estimate:
        """Differential entropy -E[log p(x)], by draws; unbiased.

        Args:
            n_samples: at least 2; the error falls with its root.
            seed: of the draws.

        Raises:
            ValueError: fewer than two samples.
            NotFittedError: there are no parameters yet.
        """
        check_count("n_samples", n_samples, 2)
        return _mean(-self.log_prob(self.sample(n_samples, seed)))

    @torch.no_grad()
    def kl_divergence(self, other: "GaussianMixture", n_samples: int = 10_000, seed: int = 0) -> Estimate:
        """Kullback-Leibler divergence E[log p(x) - log q(x)] to another mixture q, by draws from this one; unbiased.

        Args:
            other: over the same features.
            n_samples, seed: see `entropy`.

        Raises:
            ValueError: another number of features, or fewer than two samples.
            NotFittedError: a mixture has no parameters yet.
        """
        check_count("n_samples", n_samples, 2)
        self._check_comparable(other)
        x = self.sample(n_samples, seed)
        return _mean(self.log_prob(x) - other.log_prob(x))

    @torch.no_grad()
    def component_distances(self, other: "GaussianMixture") -> Tensor:
        """`bhattacharyya` distance of each component to each of another mixture's, (K, K_other) float64, in nats, >= 0.

        Raises:
            ValueError: another number of features.
            NotFittedError: a mixture has no parameters yet.
        """
        self._check_comparable(other)
        # Relative to one location: the means may be far from zero.
        means = self.centred_means.double() + (self.location.double() - other.location.double())
        mine = means, self.dense_covariances.double()
        return bhattacharyya(*mine, other.centred_means.double(), other.dense_covariances.double())

    def drift_from(self, before: "GaussianMixture") -> Tensor:
        """How far the components have moved since another state of the mixture: () float64, in nats, >= 0.

        The distance of each component to the nearest one before, averaged by its weight: the order of the components
        does not matter, nor does a component that has next to no points.

        Raises:
            ValueError, NotFittedError: see `component_distances`.
        """
        return self.weights.detach().double() @ self.component_distances(before).amin(1)

    def _check_comparable(self, other: "GaussianMixture") -> None:
        self.require_fitted()
        other.require_fitted()
        if self.n_features != other.n_features:
            raise ValueError(f"other: expected a mixture over {self.n_features} features; got {other.n_features}")

    # ---- choice of a model

    @classmethod
    def select(
        cls,
        x: Array,
        n_components: Iterable[int],
        covariance_types: Iterable[CovarianceType] = ("full", "tied", "diag", "spherical"),
        *,
        criterion: Literal["bic", "aic"] = "bic",
        **options: Any,
    ) -> ModelSelection[Self]:
        """Fit every combination of a number of components and a covariance type, and order them by a criterion.

        A fit that fails is an error, not a gap; of one that does not converge `mixture.converged` says so, without a
        warning.

        Args:
            x: (N, D); the mixtures take its device, and its type where that is float64.
            n_components, covariance_types: what to try.
            criterion: see `bic` and `aic`.
            **options: of `fit`.

        Raises:
            ValueError: nothing to try, another criterion, or what `fit` raises.
        """
        x = readable(x)
        check_points(x, None)
        x = as_tensor(x)
        dtype = x.dtype if x.element_size() == 8 else None
        if criterion not in ("bic", "aic"):
            raise ValueError(f"criterion: expected 'bic' or 'aic'; got {criterion!r}")
        grid = list(product(n_components, covariance_types))
        if not grid:
            raise ValueError("expected at least one number of components and one covariance type; got none")
        candidates = []
        for k, kind in grid:
            mixture = cls(k, x.shape[1], kind, device=x.device, dtype=dtype)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                mixture.fit(x, **options)
            candidates.append(Candidate(mixture, mixture.score(x), mixture.bic(x), mixture.aic(x)))
        return ModelSelection(tuple(sorted(candidates, key=attrgetter(criterion))), criterion)

    # ---- gradients of a fit in the points that it is fitted to

    def unrolled_fit(
        self, x: Array, n_iter: int, sample_weight: Array | None = None, reg_covar: float = 1e-6
    ) -> Fitted:
        """Parameters after `n_iter` more iterations of EM, with the gradient through all of them.

        Memory grows with n_iter; see `implicit_fit` for the gradient at convergence. The mixture is not changed. With
        several processes each has the fit and the gradient of its own points.

        Args:
            x, sample_weight, reg_covar: as in `fit`; x on the mixture's device.
            n_iter: at least 1.

        Raises:
            ValueError, TypeError: bad shapes, types or numbers.
            NotFittedError: there is nothing to begin with.
        """
        check_count("n_iter", n_iter)
        with full_precision(self.location.device):
            return unrolled(self._em_step(x, sample_weight, reg_covar), n_iter)

    def implicit_fit(
        self,
        x: Array,
        sample_weight: Array | None = None,
        reg_covar: float = 1e-6,
        *,
        tol: float = 1e-9,
        max_iter: int = 2000,
    ) -> Fitted:
        """Parameters at EM's fixed point, with the gradient that the fixed point itself implies.

        At a fixed point t = F(t, x) of EM's map the implicit function theorem gives dt/dx = (I - dF/dt)^-1 dF/dx,
        whatever led there: memory is that of one iteration. The linear system is solved by GMRES, one
        vector-Jacobian product of F for each of its iterations. (For such gradients see Bai, Kolter, Koltun, "Deep
        Equilibrium Models", 2019, theorem 1.)

        The search for the fixed point begins from the mixture, which is not changed.

        Args:
            x, sample_weight, reg_covar: as in `fit`; x on the mixture's device.
            tol: of the fixed point, as the largest change of a standardised parameter in an iteration, and of the
                linear system, relative.
            max_iter: of EM, and of GMRES.

        Raises:
            ValueError, TypeError: bad shapes, types or numbers.
            NotFittedError: there is nothing to begin with.
            SolverError: no fixed point, or no solution of the linear system, within `max_iter` iterations. The
                latter comes in the backward pass.
        """
        with full_precision(self.location.device):
            return implicit(self._em_step(x, sample_weight, reg_covar), tol, max_iter)

    def _em_step(self, x: Array, sample_weight: Array | None, reg_covar: float) -> EMStep:
        self.require_fitted()
        x = self._given(x)
        if sample_weight is not None:
            checked = check_weight(sample_weight, len(x))
            sample_weight = sample_weight if isinstance(sample_weight, Tensor) else checked.to(x.device)
        sizes = self.n_components, self.n_features
        em = EM(self.family, *sizes, EMOptions(reg_covar=reg_covar), torch.float64, self.location.device)
        return EMStep(em, (self.parameters_about_location(), self.location), x, sample_weight)


def _mean(values: Tensor) -> Estimate:
    wide = values.double()
    return Estimate(float(wide.mean()), float(wide.std()) / math.sqrt(len(wide)))
