"""Calibration inputs that hold failures: which to label, and what may be left out."""

from bisect import bisect_left
from typing import NamedTuple

import scipy
import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_probability, check_scores


class Trimmed(NamedTuple):
    """Which inputs of a calibration set to keep, (n,) bool, and how many failures are left among them at most.

    An alpha is to be multiplied by `shrink`, (n_kept + 1 - n_failures) / (n_kept + 1).
    """

    keep: Tensor
    n_failures: int
    shrink: float


def to_label(scores: Tensor, n_lowest: int, n_random: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Which calibration inputs to look at: those of the lowest scores, and a random sample of the others.

    Of scores (n,), higher = more typical; (n_lowest,) and (n_random,) int64 indices.

    Raises:
        ValueError: NaN, counts out of range.
    """
    check_scores("calibration scores", scores, at_least=2)
    check_count("n_lowest", n_lowest, at_least=0)
    check_count("n_random", n_random)
    if n_lowest + n_random > len(scores):
        raise ValueError(f"n_lowest + n_random: expected at most {len(scores)}; got {n_lowest + n_random}")
    order = scores.detach().cpu().argsort(stable=True)
    others = order[n_lowest:]
    drawn = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:n_random]
    return order[:n_lowest], others[drawn]


def trim(n: int, lowest: Tensor, lowest_failed: Tensor, drawn: Tensor, drawn_failed: Tensor, delta: float) -> Trimmed:
    """Leave out the failures that labels found, and bound how many are left.

    For a good input exchangeable with the good ones among the calibration inputs, with p-values of `Calibration` on
    what is kept, P(p <= shrink * a) <= a + delta for every a. For let L failures be left of n_kept inputs. Ranks among
    the kept are at least those among the good, so p (n_kept + 1) / (n_kept + 1 - L) is at least the p-value that the
    good ones alone would give, which is valid; and L exceeds its bound (hypergeometric, from the random sample) with
    probability delta at most, however the inputs of the lowest scores were chosen. Leaving failures out without the
    factor is not valid: each that is left makes the others' ranks look lower than they are.

    Labels on the lowest scores are proposed by Bashari, Sesia, Romano 2025, "Robust conformal outlier detection under
    contaminated reference data", arXiv:2502.04807. They also show that a set with failures, left as it is, makes
    p-values too large if anything, so long as failures score lower than good inputs do.

    Args:
        n: number of calibration inputs.
        lowest, drawn, lowest_failed, drawn_failed: indices as `to_label` gave them; bool, which of these are failures.
        delta: probability with which more failures may be left.

    Raises:
        ValueError: shapes, delta out of range.
    """
    check_probability("delta", delta)
    for name, index, failed in (("lowest", lowest, lowest_failed), ("drawn", drawn, drawn_failed)):
        if index.shape != failed.shape or index.dim() != 1 or failed.dtype != torch.bool:
            raise ValueError(
                f"{name}: expected one bool per index, shape (k,); got {tuple(index.shape)} indices and "
                f"{tuple(failed.shape)} of {failed.dtype}"
            )
    keep = torch.ones(n, dtype=torch.bool)
    keep[lowest[lowest_failed]] = False
    keep[drawn[drawn_failed]] = False
    n_others, n_seen, found = n - len(lowest), len(drawn), int(drawn_failed.sum())

    def too_rare(n_failures: int) -> bool:
        """Whether so few in the sample are rarer than delta, of so many failures among the others."""
        return bool(scipy.stats.hypergeom.cdf(found, n_others, n_failures, n_seen) <= delta)

    possible = range(found, n_others - (n_seen - found) + 1)
    left, n_kept = bisect_left(possible, True, key=too_rare) - 1, int(keep.sum())
    return Trimmed(keep, left, (n_kept + 1 - left) / (n_kept + 1))
