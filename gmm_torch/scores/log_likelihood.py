"""The paper's score: log-likelihood of the features under a Gaussian mixture (Shao, Song, Ermon 2020)."""

from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.layer_mixtures import LayerMixtures

PAPERS_COMPONENTS = 30  # K of the paper


class LogLikelihood(LayerMixtures):
    """Sum over the layers of log p(z_layer), one mixture a layer, jointly over all views.

    Args: those of `LayerMixtures`.
    """

    name = "log_likelihood"

    def __init__(
        self, n_components: int = PAPERS_COMPONENTS, covariance_type: str = "full", transform: str = "none"
    ) -> None:
        super().__init__(n_components, covariance_type, transform)

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats."""
        return self.log_probs(outputs).sum(1)
