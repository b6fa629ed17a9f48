"""A mixture of a score, with the features behind its points and their names."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gmm_torch.devices import full_precision
from gmm_torch.distributed import share
from gmm_torch.errors import ComponentsWarning, warn
from gmm_torch.features.features import Features, in_chunks
from gmm_torch.features.projection import Projection
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.linear_algebra import robust_cholesky

_POINTS_PER_COMPONENT = 20  # fewer can't tell a component from its neighbours
# Features of a classifier are nearly rank-deficient: without a floor a component collapses onto a few points and
# held-out inputs look impossible. Chosen by held-out likelihood, which needs no failures.
REG_COVAR = 1e-2
_LARGEST = 0.9  # fraction of the inputs in one component above which a warning is due
LOG_SOFTMAX = "log_softmax"  # stands for a layer where the features are the classifier's log-probabilities


def sized(mixture: GaussianMixture, points: Tensor) -> GaussianMixture:
    """The mixture, or an empty one of its kind with as many features as points (N, D), and components that N carry.

    Issues a `ComponentsWarning` where these are fewer.
    """
    carried = max(1, len(points) // _POINTS_PER_COMPONENT)
    if carried < mixture.n_components:
        warn(
            f"n_components={mixture.n_components}: expected {_POINTS_PER_COMPONENT} fitting inputs for each; got "
            f"{len(points)}, so {carried} are fitted: give more inputs, or ask for fewer components",
            ComponentsWarning,
        )
    return with_size(mixture, min(mixture.n_components, carried), points.shape[1])


def with_size(mixture: GaussianMixture, n_components: int, n_features: int) -> GaussianMixture:
    """The mixture if it has that size, or else an empty one of its kind that has."""
    if (n_components, n_features) == (mixture.n_components, mixture.n_features):
        return mixture
    return GaussianMixture(n_components, n_features, mixture.covariance_type).to(mixture.location)


def fit_mixture(mixture: GaussianMixture, features: Tensor, seed: int) -> GaussianMixture:
    """Fit a mixture of a score to features (N, D) in place, as `FailureDetector.fit` does without a fitter.

    Of several processes, which all have the same features, each takes a share.
    """
    # Few points in many dimensions: without shrinkage each component memorises its points, and new inputs all fall to
    # the widest of them.
    shrinkage: Literal["oas"] | None = "oas" if mixture.family.shrinks else None
    return mixture.fit(share(features), reg_covar=REG_COVAR, shrinkage=shrinkage, seed=seed)


class Block(NamedTuple):
    """Neighbouring coordinates of a mixture's features: `width` of a layer for each group of views."""

    layer: str
    groups: tuple[tuple[int, ...], ...]  # of indices of views that the coordinates are the mean of
    width: int


def each_view(n_views: int) -> tuple[tuple[int, ...], ...]:
    """The groups of features that are concatenated over views."""
    return tuple((view,) for view in range(n_views))


@dataclass(frozen=True)
class FeatureMixture:
    """One mixture of a score."""

    mixture: GaussianMixture  # over points (N, D)
    features: Callable[[Features], Tensor]  # (N, S)
    blocks: Sequence[Block]  # what the S features are, in order
    projection: Projection | None = None  # from features to points, None where they are the same

    def points(self, outputs: Features) -> Tensor:
        """The points that the mixture models, (N, D)."""
        with full_precision(outputs.logits.device):
            return in_chunks(self._points, outputs)

    def _points(self, outputs: Features) -> Tensor:
        features = self.features(outputs)
        return features if self.projection is None else self.projection(features)

    def contributions(self, outputs: Features, component: Tensor) -> Tensor:
        """Share of each feature in the squared Mahalanobis distance to the mean of a component.

        The share of feature i is c_i = (z - mu)_i (P (z - mu))_i, P the precision: exact, of expectation one for
        inputs of that component (see `half_gradient`). Where the mixture sees a projection of the features, the shares
        are those of the features before it, and a last column holds the share of the distance to the subspace that it
        projects on.

        Returns:
            (N, S), or (N, S + 1) with a projection, float64; each row sums to the squared distance.
        """
        features = self.features(outputs).detach().double()
        mixture = self.mixture
        with torch.inference_mode(False):  # a gradient can't pass through tensors made in inference mode
            parameters = mixture.parameters_about_location().map(lambda value: value.double().clone())
            chosen = component[:, None].clone()
        means = parameters.means + mixture.location.double()

        def distance(v: Tensor) -> Tensor:
            # about zero: v is centred on its component's mean already
            table = mixture.family.squared_distance(v, torch.zeros_like(parameters.means), parameters.factors)
            return table.gather(1, chosen)[:, 0]

        if self.projection is None or not self.projection.is_needed:
            deviation = features - means[component]
            return deviation * half_gradient(distance, deviation)
        basis, centre = self.projection.basis.double(), self.projection.centre.double()
        points = self.points(outputs).detach().double()
        deviation = points - means[component]
        pulled = half_gradient(distance, deviation)
        # Orthonormal columns: for s the deviation in features, basis' s is the deviation in the linear coordinates.
        in_features = features - centre - means[component][:, :-1] @ basis.mT
        inside = in_features * (pulled[:, :-1] @ basis.mT)
        return torch.cat([inside, deviation[:, -1:] * pulled[:, -1:]], dim=1)

    def distances(self, points: Tensor, anchors: Tensor, component: Tensor) -> Tensor:
        """Mahalanobis distance (N, M) of points (N, D) to anchors (M, D), in the metric of each point's component."""
        found = points.new_empty(len(points), len(anchors))
        if not found.numel():
            return found
        covariances, means = self.mixture.dense_covariances, self.mixture.means.double()
        for k in component.unique().tolist():
            rows = component == k
            lower, _ = robust_cholesky(covariances[k].double())
            centred = torch.cat([points[rows], anchors]).double() - means[k]
            white = torch.linalg.solve_triangular(lower, centred.mT, upper=False).mT
            own = white[: len(white) - len(anchors)]
            found[rows] = torch.cdist(own, white[len(own) :]).to(found)
        return found


def half_gradient(quadratic: Callable[[Tensor], Tensor], deviation: Tensor) -> Tensor:
    """P v for a quadratic form q(v) = v' P v that is only known as a function.

    With it v_i (P v)_i sums to q(v) exactly (Euler's theorem on functions of degree two). Where v is the deviation
    from the mean of a Gaussian with precision P, each share has expectation one, because E[v v'] P is the identity.
    A share is negative where a coordinate lies closer to what the others lead to expect than to the mean. `quadratic`
    maps (N, D) to (N,) row by row; the result (N, D) has no gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        v = deviation.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(quadratic(v).sum(), v)
    return gradient.detach() / 2


class Concentration(NamedTuple):
    """Counts where one component has nearly all inputs."""

    largest: float  # share of that component
    n_used: float  # effective number of components in use: exp of the entropy of their shares


def concentration(counts: Tensor) -> Concentration | None:
    """The concentration of counts (K,) if nearly all inputs are in one of several components, else None."""
    shares = counts.double().cpu() / max(1, int(counts.sum()))
    largest = float(shares.max())
    if len(shares) < 2 or largest <= _LARGEST:
        return None
    return Concentration(largest, math.exp(-float(torch.special.xlogy(shares, shares).sum())))


def warn_of_unused_components(models: Mapping[str, FeatureMixture], outputs: Features) -> None:
    """Issue a `ComponentsWarning` for each mixture that has nearly all of these inputs in one component.

    Give inputs that it has not learned from if possible: components that memorise points look used.
    """
    for name, model in models.items():
        k = model.mixture.n_components
        if found := concentration(torch.bincount(model.mixture.predict(model.points(outputs)), minlength=k)):
            warn(
                f"{name}: {found.largest:.0%} of {len(outputs.logits)} inputs fall to one of {k} components, which "
                f"counts as {found.n_used:.1f} components in use: the score is still valid, but explanations by "
                "component say little; give more fitting inputs, or choose a smaller n_components",
                ComponentsWarning,
            )
