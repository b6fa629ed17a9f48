"""Log-likelihood ratio of the mixture to one Gaussian."""

from typing import Self

from torch import Tensor, nn

from gmm_torch.features.features import Features
from gmm_torch.mixture import GaussianMixture
from gmm_torch.scores.base import Fitter
from gmm_torch.scores.layer_mixtures import LayerMixtures


class RelativeLikelihood(LayerMixtures):
    """Sum over the layers of log p(z) - log p_0(z), p the mixture and p_0 one Gaussian on the same points.

    The background Gaussian takes what all inputs share out of the score, in the way of Ren et al. 2019, "Likelihood
    ratios for out-of-distribution detection", and of the relative Mahalanobis distance (Ren et al. 2021). With one
    component it is zero. It is blind to inputs that leave all data in the same direction.

    Args: those of `LayerMixtures`; the background Gaussian has the same covariance type and transform.
    """

    name = "relative_likelihood"

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.backgrounds = nn.ModuleList(
            GaussianMixture(1, n_views * width, self.covariance_type) for width in widths.values()
        )
        return super().build(widths, n_views, n_classes)

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        super().fit(outputs, fitter)
        for pair in self.with_points(self.backgrounds, outputs):
            fitter(*pair)
        return self

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats."""
        background = sum(model(points) for model, points in self.with_points(self.backgrounds, outputs))
        result: Tensor = self.log_probs(outputs).sum(1) - background
        return result
