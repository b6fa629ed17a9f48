"""Odds of one class against all others."""

import torch
from torch import Tensor


def log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """log p_c / (1 - p_c), (N,) in nats, for the softmax p of logits (N, C), C >= 2, and classes c (N,).

    Without loss where p_c is nearly one; differentiable in the logits.
    """
    index = chosen[:, None]
    others = logits.scatter(1, index, -torch.inf)
    return logits.gather(1, index)[:, 0] - others.logsumexp(1)
