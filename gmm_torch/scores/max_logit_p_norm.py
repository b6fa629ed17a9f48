"""The largest logit, measured by the size of all logits (Cattelan and Silva 2024)."""

import torch
from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.base import Score


class MaxLogitPNorm(Score):
    """max_c (z_c - m) / ||z - m||_p, z the logits and m their mean: free of the scale of the logits.

    Cattelan and Silva 2024, "How to fix a broken confidence estimator: evaluating post-hoc methods for selective
    classification with deep neural networks". They choose p, and whether to stay with the softmax, by
    labelled images. Here no label is used, so p is fixed: on the two networks it was chosen on, the area for wrong
    predictions changes by less than half a point between 3 and 8. With two classes the ratio is a constant, and the
    score is the largest softmax probability, as theirs is where the norm does not help.

    Args:
        p: of the norm, at least 1.
    """

    name = "max_logit_p_norm"

    def __init__(self, p: float = 5.0) -> None:
        super().__init__()
        if not 1 <= p < float("inf"):
            raise ValueError(f"p: expected a finite number >= 1; got {p}")
        self.p = float(p)

    def forward(self, outputs: Features) -> Tensor:
        """(N,), between 0 and 1; 0 where all logits are the same."""
        logits = outputs.own_logits
        if logits.shape[-1] <= 2:
            return logits.softmax(-1).amax(-1)
        logits = logits - logits.detach().amax(-1, keepdim=True)
        centred = logits - logits.mean(-1, keepdim=True)
        # Powers of large and of small numbers leave the range of the type; the ratio does not depend on the unit.
        size = centred.detach().abs().amax(-1, keepdim=True)
        ratio = centred / torch.where(size > 0, size, 1)
        norm = torch.linalg.vector_norm(ratio, self.p, dim=-1)
        return ratio.amax(-1) / torch.where(size[..., 0] > 0, norm, 1)
