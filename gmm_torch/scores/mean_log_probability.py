"""Mean log-probability, over test-time augmentations, of the class predicted for the input itself."""

from typing import Self

import torch
from torch import Tensor

from gmm_torch.features.features import Features, in_chunks
from gmm_torch.scores.base import Fitter, Score


class MeanLogProbability(Score):
    """Mean of log softmax(logits_v)_c over the views v that count, c the class predicted for the input itself.

    A view counts if, on the fitting inputs, its predictions overlap those of the inputs themselves:
    E[p_v . p_0] >= keep E[p_0 . p_0]. That takes no labels, and leaves out a mirror where it changes what an image
    shows, as with digits.

    Args:
        keep: fraction of overlap that a view needs.
        n_views: number of views, from the first, that may count. A mirrored image shows as much as the image; a
            blurred one shows less, and counting it makes wrong predictions harder to find.
    """

    name = "mean_log_probability"
    in_words = "the classifier's certainty"
    reads_features = False
    default_weights = (1.0, 1.0)
    views = ("identity", "mirror", "blur")
    votes: Tensor

    def __init__(self, keep: float = 0.95, n_views: int = 2) -> None:
        super().__init__()
        self.keep = keep
        self.n_views = n_views
        self.register_buffer("votes", torch.ones(1, dtype=torch.bool))

    def build(self, widths: dict[str, int], n_views: int, n_classes: int) -> Self:
        self.votes = torch.ones(n_views, dtype=torch.bool)
        return self

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        overlap = in_chunks(_overlap, outputs).mean(0)  # (V,)
        may_vote = torch.arange(len(overlap), device=overlap.device) < self.n_views
        self.votes = may_vote & (overlap >= self.keep * overlap[0])
        return self

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats, at most 0."""
        log_p = outputs.logits.log_softmax(-1)
        predicted = outputs.own_logits.argmax(-1)
        of_predicted = log_p.gather(-1, predicted[:, None, None].expand(-1, log_p.shape[1], 1))[..., 0]  # (N, V)
        weight = self.votes.to(of_predicted)
        return (of_predicted @ weight) / weight.sum()


def _overlap(outputs: Features) -> Tensor:
    """p_v . p_0 of each view of each input, (N, V)."""
    p = outputs.logits.softmax(-1)
    return (p * p[:, :1]).sum(-1)
