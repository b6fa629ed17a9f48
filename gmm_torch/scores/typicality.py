"""Distance of the log-likelihood from its usual value: too likely is suspicious as well."""

from typing import Self

import torch
from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.base import Fitter
from gmm_torch.scores.layer_mixtures import LayerMixtures

FLOOR = 2.0**-23  # nats, the smallest deviation: where all log-densities are equal


class Typicality(LayerMixtures):
    """- sum over the layers of |log p(z) - m| / s, m and s the mean and deviation of log p(z) over fitting inputs.

    In many dimensions nearly all points have a log-density close to its mean, the negative entropy; the mode is far
    from typical (Nalisnick et al. 2019, "Detecting out-of-distribution inputs to deep generative models using
    typicality", equation 5 with one input).

    Args: those of `LayerMixtures`.
    """

    name = "typicality"
    location: Tensor
    scale: Tensor

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.register_buffer("location", torch.zeros(len(widths)))
        self.register_buffer("scale", torch.ones(len(widths)))
        return super().build(widths, n_views, n_classes)

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        super().fit(outputs, fitter)
        log_p = self.log_probs(outputs)
        wide = log_p.double()
        self.location = wide.mean(0).to(log_p)
        self.scale = wide.std(0, correction=0).clamp_min(FLOOR).to(log_p)
        return self

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in standard deviations, at most 0."""
        return -((self.log_probs(outputs) - self.location).abs() / self.scale).sum(1)
