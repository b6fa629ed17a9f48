"""Evidence for the predicted class, given how certain the classifier is."""

from typing import Self

import torch
from torch import Tensor

from gmm_torch.checks import check_count
from gmm_torch.features.features import Features, in_chunks
from gmm_torch.mixture import GaussianMixture
from gmm_torch.mixture.linear_algebra import log_normal, log_normal_cdf
from gmm_torch.scores.base import N_COMPONENTS, Fitter, Score
from gmm_torch.scores.feature_mixture import sized

# Smallest share of a variance that is left when the other variable is known: what float32 tells from none.
_LEAST_LEFT = 2.0**-23


class ConditionalConsistency(Score):
    """log P(D <= d | S = s): d the evidence for the predicted class, s the classifier's own. No score by itself.

    Both are log-odds. A mixture over (s, d), fitted to the fitting inputs, says how low d is for an s like this one, so
    an input that is hard anyway does not count again.

    Args:
        n_components: the largest K of the mixture over (s, d); fewer where there are fewer than twenty fitting inputs
            for each.
    """

    def __init__(self, n_components: int = N_COMPONENTS) -> None:
        super().__init__()
        check_count("n_components", n_components)
        self.n_components = n_components
        self.joint = GaussianMixture(1, 2)  # of the right size after `build`

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.joint = GaussianMixture(self.n_components, 2)
        return super().build(widths, n_views, n_classes)

    def odds(self, outputs: Features) -> Tensor:
        """s and d: (N, 2)."""
        raise NotImplementedError

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        """See `Score`; the mixture over s and d."""
        odds = in_chunks(self.odds, outputs)
        self.joint = sized(self.joint, odds)
        fitter(self.joint, odds)
        return self

    def forward(self, outputs: Features) -> Tensor:
        """(N,), at most 0."""
        pairs = self.odds(outputs)
        parameters = self.joint.parameters_about_location().map(lambda value: value.to(pairs.dtype))
        covariances = self.joint.family.dense(parameters.factors, self.joint.n_components, 2)
        return log_conditional_tail(pairs - self.joint.location, parameters.log_weights, parameters.means, covariances)


def log_conditional_tail(pairs: Tensor, log_weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """log P(Y <= y | X = x), (x, y) a draw from a mixture of normals; differentiable.

    Given x, Y is a mixture of normals again: the weights are the responsibilities of the components for x, means and
    variances those of the regressions of y on x (Bishop 2006, equations 2.81 and 2.82). Of pairs (N, 2), log-weights
    (K,), means (K, 2) and covariances (K, 2, 2), positive definite: (N,), at most 0.
    """
    deviation = pairs[:, None] - means  # (N, K, 2)
    variance = covariances[:, 0, 0]
    distance = deviation[..., 0].square() / variance
    share = (log_weights + log_normal(distance, variance.log(), 1)).log_softmax(-1)  # (N, K)
    slope = covariances[:, 0, 1] / variance
    left = covariances[:, 1, 1] - slope * covariances[:, 0, 1]
    scale = torch.maximum(left, _LEAST_LEFT * covariances[:, 1, 1]).sqrt()
    standard = (deviation[..., 1] - slope * deviation[..., 0]) / scale
    return (share + log_normal_cdf(standard)).logsumexp(-1).clamp_max(0)
