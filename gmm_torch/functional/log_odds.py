"""Odds of one class against all others."""

import torch
from torch import Tensor


def log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """log p_c / (1 - p_c) for the softmax p of some logits, without loss where p_c is nearly one.

    Args:
        logits: (N, C), C >= 2, up to a constant a row.
        chosen: (N,) int64, the class c of each row.

    Returns:
        (N,), in nats, differentiable in the logits.
    """
    index = chosen[:, None]
    others = logits.scatter(1, index, -torch.inf)
    return logits.gather(1, index)[:, 0] - others.logsumexp(1)
