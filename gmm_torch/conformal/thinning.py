"""Inputs of one place made to inputs of another, exactly: weights as chances to be kept."""

import math

from torch import Tensor

from gmm_torch.conformal.p_values import stream_uniforms


def thinned(log_weights: Tensor, max_weight: float, seed: int = 0) -> Tensor:
    """(n,) bool, which inputs to keep: each with probability w / max_weight.

    With w = dQ/dP, independent inputs of P that are kept are independent inputs of Q (rejection sampling, von Neumann
    1951), so whatever needs exchangeability, a test of a batch, a martingale or a false discovery rate, holds for new
    inputs of Q with what is kept as calibration set. With weights of another distribution it is off by the total
    variation distance for each input that is used. Of n inputs about n / max_weight are left. The draw goes by the
    order of the inputs, and must not be repeated until one likes it.

    Args:
        log_weights: (n,), as of `WeightedScores.log_weights`; fixed before the inputs were looked at.
        max_weight: no weight can be above it, whatever the input.
        seed: of the draw.

    Raises:
        ValueError: shapes, NaN or weights above the largest.
    """
    chance = relative_weights(log_weights.cpu(), max_weight)
    return (stream_uniforms(len(log_weights), seed) <= chance).to(log_weights.device)


def relative_weights(log_weights: Tensor, max_weight: float) -> Tensor:
    """w / max_weight of log-weights (n,), float64, at most 1 but for rounding; raises unless they are so."""
    if not 0 < max_weight < math.inf:
        raise ValueError(f"max_weight: expected a finite number above 0; got {max_weight}")
    if log_weights.dim() != 1 or not bool((log_weights <= math.log(max_weight) + 1e-6).all()):
        raise ValueError(
            f"log-weights: expected one per score, (n,), none above log {max_weight:g}; got "
            f"{tuple(log_weights.shape)}, or larger ones, or NaN: give those of the calibration and its `max_weight`"
        )
    return (log_weights.detach().double() - math.log(max_weight)).exp()
