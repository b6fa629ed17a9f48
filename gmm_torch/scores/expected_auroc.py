"""The area under the ROC curve that is to be expected where only probabilities of the classes are known."""

import torch
from torch import Tensor


def expected_auroc(score: Tensor, probability: Tensor) -> Tensor:
    """P(score_i > score_j) + P(score_i = score_j) / 2, i drawn as a positive and j as a negative.

    Input i counts as a positive with its probability and as a negative with the rest: the ratio of the expected number
    of pairs in the right order to that of all pairs. With probabilities 0 and 1 it is the area itself.

    Of scores (N,), higher = more positive, and probabilities (N,): (), float64; NaN where positives or negatives have
    no weight at all.
    """
    positive = probability.double()
    negative = 1 - positive
    # The place of the first score that is as large; `unique` would wait for the device.
    rank = torch.searchsorted(score.sort().values, score.contiguous()).clamp_max(len(score) - 1)
    of_negative = torch.zeros(len(score), dtype=torch.float64, device=score.device).index_add(0, rank, negative)
    below = of_negative.cumsum(0) - of_negative
    pairs = positive * (below + of_negative / 2)[rank]
    # An input makes no pair with itself.
    own = positive * negative
    return (pairs - own / 2).sum() / (positive.sum() * negative.sum() - own.sum())
