"""The paper's score: log-likelihood of the features under a Gaussian mixture (Shao, Song, Ermon 2020)."""

from typing import Any, Self

from torch import Tensor, nn

from gmm_torch.detection.outputs import Outputs
from gmm_torch.detection.scores.base import Fitter, Score
from gmm_torch.mixture import GaussianMixture


class LogLikelihood(Score):
    """Sum over the layers of log p(z_layer), one mixture a layer.

    Args:
        n_components: K of each mixture; a layer of a small fitting set may need fewer.
        covariance_type: see `GaussianMixture`.
    """

    name = "log_likelihood"

    def __init__(self, n_components: int = 30, covariance_type: str = "full") -> None:
        super().__init__()
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.layers: list[str] = []
        self.mixtures = nn.ModuleList()

    def options(self) -> dict[str, Any]:
        """See `Score`."""
        return {"n_components": self.n_components, "covariance_type": self.covariance_type}

    def build(self, widths: dict[str, int], n_classes: int) -> Self:
        """See `Score`."""
        self.layers = list(widths)
        self.mixtures = nn.ModuleList(
            GaussianMixture(self.n_components, width, self.covariance_type) for width in widths.values()
        )
        return self

    def fit(self, outputs: Outputs, fitter: Fitter) -> Self:
        """See `Score`."""
        for layer, mixture in zip(self.layers, self.mixtures, strict=True):
            fitter(mixture, outputs.features[layer])  # type: ignore[arg-type]
        return self

    def forward(self, outputs: Outputs) -> Tensor:
        """(N,), in nats."""
        parts = [mixture(outputs.features[layer]) for layer, mixture in zip(self.layers, self.mixtures, strict=True)]
        return sum(parts[1:], start=parts[0])

    def component(self, outputs: Outputs) -> Tensor:
        """See `Score`; of the first layer's mixture."""
        return self.mixtures[0].predict(outputs.features[self.layers[0]])  # type: ignore[operator]
