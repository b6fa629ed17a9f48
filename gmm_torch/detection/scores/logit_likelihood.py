"""Log-likelihood of the log-probabilities that the classifier gives all views, jointly."""

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.detection.mixtures.feature_mixture import LOG_SOFTMAX, Block, FeatureMixture, each_view, sized
from gmm_torch.detection.mixtures.projection import Projection
from gmm_torch.detection.scores.base import Fitter, Score
from gmm_torch.detection.streaming.chunks import in_chunks
from gmm_torch.mixture import GaussianMixture


class LogitLikelihood(Score):
    """A mixture over the log-softmax of every view, concatenated: (N, V C).

    It knows how the classifier's opinion of a clean image moves from view to view. An adversarial image is one whose
    opinion moves otherwise.

    Args:
        n_components: the largest K; fewer where there are fewer than twenty fitting inputs for each.
        covariance_type: see `GaussianMixture`.
    """

    name = "logit_likelihood"
    default_weights = (1 / 16, 1 / 8)
    views = ("identity", "mirror", "blur")

    mixture: GaussianMixture

    def __init__(self, n_components: int = 10, covariance_type: str = "full") -> None:
        super().__init__()
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.projection = Projection(1)  # like the mixture, of the right width after `build`
        self.mixture = GaussianMixture(n_components, 1, covariance_type)
        self.blocks: list[Block] = []

    def reads(self, layers: Sequence[str], n_views: int) -> dict[str, int]:
        """See `Score`."""
        return {}

    def options(self) -> dict[str, Any]:
        """See `Score`."""
        return {"n_components": self.n_components, "covariance_type": self.covariance_type}

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        """See `Score`."""
        self.blocks = [Block(LOG_SOFTMAX, each_view(n_views), n_classes)]
        self.projection = Projection(n_views * n_classes)
        self.mixture = GaussianMixture(self.n_components, self.projection.width, self.covariance_type)
        return self

    def points(self, outputs: Outputs) -> Tensor:
        """What the mixture models: (N, V C), projected where that is wide."""
        result: Tensor = self.projection(self.log_probabilities(outputs))
        return result

    def log_probabilities(self, outputs: Outputs) -> Tensor:
        """Log-softmax of all views: (N, V C)."""
        return outputs.logits.log_softmax(-1).flatten(1)

    def fit(self, outputs: Outputs, fitter: Fitter) -> Self:
        """See `Score`."""
        self.projection.fit(in_chunks(self.log_probabilities, outputs))
        points = in_chunks(self.points, outputs)
        self.mixture = sized(self.mixture, points)
        fitter(self.mixture, points)
        return self

    def forward(self, outputs: Outputs) -> Tensor:
        """(N,), in nats."""
        result: Tensor = self.mixture(self.points(outputs))
        return result

    def models(self) -> dict[str, FeatureMixture]:
        """See `Score`."""
        return {self.name: FeatureMixture(self.mixture, self.log_probabilities, self.blocks, self.projection)}
