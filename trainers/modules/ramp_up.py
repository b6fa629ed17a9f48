"""Losses that come in slowly."""

import math


def sigmoid_ramp_up(step: int, length: float) -> float:
    """exp(-5 (1 - t)^2) with t = min(step / length, 1): from 0.007 to 1 along half of a sigmoid.

    Source: Laine, Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017, section 2.

    Args:
        step: the number of steps that were taken, 0 or more.
        length: the number of steps after which the result stays 1; 0 for always.
    """
    progress = 1.0 if step >= length else step / length
    return math.exp(-5 * (1 - progress) ** 2)
