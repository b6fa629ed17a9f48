"""Likelihood of features and prediction together, by what the classifier predicts within each component."""

from typing import Self

import torch
from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.base import N_COMPONENTS, Fitter
from gmm_torch.scores.layer_mixtures import LayerMixtures


class PredictionAssociation(LayerMixtures):
    """Sum over the layers of log sum_k p(z, k) P(c | k), c the predicted class.

    P(c | k) is how often the classifier predicts c for fitting inputs of component k, by their responsibilities; no
    label is used. A prediction that is rare where the features lie lowers the score.

    Args:
        n_components, covariance_type, transform: see `LayerMixtures`.
        smoothing: added to the count of every class in every component (Laplace's rule for 1), so that nothing is
            impossible.
    """

    name = "prediction_association"
    log_association: Tensor

    def __init__(
        self,
        n_components: int = N_COMPONENTS,
        covariance_type: str = "full",
        transform: str = "none",
        smoothing: float = 1.0,
    ) -> None:
        super().__init__(n_components, covariance_type, transform)
        if not smoothing > 0:
            raise ValueError(f"smoothing: expected a number > 0; got {smoothing}")
        self.smoothing = smoothing
        self.register_buffer("log_association", torch.zeros(0, n_components, 0))

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.log_association = torch.zeros(len(widths), self.n_components, n_classes)
        return super().build(widths, n_views, n_classes)

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        super().fit(outputs, fitter)
        logits = outputs.own_logits
        predicted = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).double()
        tables = [joint.softmax(1).double().mT @ predicted for joint in self.log_joints(outputs)]
        counts = torch.stack(tables) + self.smoothing  # (L, K, C)
        self.log_association = (counts / counts.sum(-1, keepdim=True)).log().to(logits)
        return self

    def reserve(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """See `Score`; there are fewer components where there were few fitting inputs."""
        super().reserve(shapes)
        sizes = {mixture.n_components for mixture in self.mixtures}
        if len(sizes) == 1:
            self.log_association = self.log_association[:, : sizes.pop()].contiguous()

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats."""
        predicted = outputs.own_logits.argmax(1)
        of_predicted = self.log_association[:, :, predicted].mT  # (L, N, K)
        pairs = zip(self.log_joints(outputs), of_predicted, strict=True)
        return torch.stack([(joint + log_p).logsumexp(1) for joint, log_p in pairs]).sum(0)
