"""Ranks that torchmetrics takes as they are."""

from torch import Tensor


def unit_ranks(scores: Tensor) -> Tensor:
    """The scores' dense ranks, scaled to [0, 1] in float64: ties stay ties, infinities become numbers.

    torchmetrics pushes values outside [0, 1] through a sigmoid, which turns every log-likelihood below
    about -100 into the same 0. Its ranking metrics only need the order, which this keeps.
    """
    distinct, rank = scores.unique(return_inverse=True)
    unit: Tensor = rank.double() / max(1, len(distinct) - 1)
    return unit
