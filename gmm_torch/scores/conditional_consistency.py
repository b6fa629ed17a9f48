"""Evidence for the predicted class, given how certain the classifier is."""

from typing import Self

from torch import Tensor

from gmm_torch.checks import check_count
from gmm_torch.features.chunks import in_chunks
from gmm_torch.features.features import Features
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores.base import N_COMPONENTS, Fitter, Score
from gmm_torch.scores.conditional_tail import log_conditional_tail
from gmm_torch.scores.feature_mixture import sized


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
