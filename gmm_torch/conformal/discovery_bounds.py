"""How many of the inputs that one picks are good after all: bounds that hold whatever one picks, after looking."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_one_each, check_p_values, check_probability
from gmm_torch.conformal.null_envelope import envelopes
from gmm_torch.conformal.p_values import LARGEST_SIZE


@dataclass(frozen=True)
class DiscoveryBounds:
    """Bounds on the good inputs among any of a batch, all of which hold at once with confidence 1 - delta.

    Attributes:
        n_good: how many of all m are good, at most.
        thresholds, at_most: (K,) p-values, ascending, and int64, up to each of which so many are good at most.
        delta: chance, over calibration sets and batches, that any bound of this batch fails.
    """

    p_values: Tensor
    n_good: int
    thresholds: Tensor
    at_most: Tensor
    delta: float

    def good(self, chosen: Tensor) -> int:
        """How many of the chosen inputs, (m,) bool, are good, at most; they may be chosen by looking at anything."""
        check_one_each("chosen", "p-value", self.p_values, chosen, flags=True)
        beyond = (self.p_values[chosen][:, None] > self.thresholds).sum(0)
        return min(int(chosen.sum()), self.n_good, int((self.at_most + beyond).min()))

    def proportion(self, chosen: Tensor) -> float:
        """The false discovery proportion of the chosen, at most; 0 where none is chosen."""
        return self.good(chosen) / max(1, int(chosen.sum()))

    def largest(self, proportion: float) -> Tensor:
        """(m,) bool, as many inputs of the smallest p-values as have a false discovery proportion up to this."""
        check_probability("proportion", proportion)
        found = torch.zeros_like(self.p_values, dtype=torch.bool)
        for threshold in self.p_values.unique():
            chosen = self.p_values <= threshold
            if self.proportion(chosen) <= proportion:
                found = chosen
        return found


def discovery_bounds(
    p_values: Tensor, n_calibration: int, delta: float = 0.1, *, selection: bool = False
) -> DiscoveryBounds:
    """Bounds on how many inputs are good among those below any threshold, or among any others that one picks.

    With probability at least 1 - delta all hold at once, so the choice may follow a look at p-values, images and bounds
    (Goeman, Solari 2011, "Multiple testing for exploratory research"; for conformal p-values Song, Jin, Candes 2026,
    "Everywhere valid bounds on false discovery proportions in conformal inference", arXiv:2605.20726, who sample the
    envelope that `null_envelope` has exactly). It is closed testing: "these are all good" is rejected where somewhere
    more of them have small p-values than the envelope of as many allows.

    Needs test and calibration scores of good inputs exchangeable, all together; failures may be anything. P-values are
    those of `Calibration`, or none below them. With those of `ConditionalCalibration` it is valid and wide.

    Args:
        p_values: (m,), of one batch.
        n_calibration: n.
        delta: in (0, 1).
        selection: the p-values are those of `conformal_selection`, and "good" is a prediction that is wrong. There it
            is a matter of chance which inputs are, so the envelope stays that of m.

    Raises:
        ValueError: shapes, p-values outside [0, 1], sizes and delta out of range.
    """
    check_p_values(p_values)
    check_probability("delta", delta)
    check_count("n_calibration", n_calibration)
    if n_calibration >= LARGEST_SIZE:
        raise ValueError(f"n_calibration: expected less than 2^31 - 1; got {n_calibration}")
    p_values = p_values if p_values.is_floating_point() else p_values.double()
    m, wide = len(p_values), p_values.detach().cpu().double()
    ranks, sizes = envelopes(n_calibration, m, delta)
    thresholds = torch.from_numpy(ranks).double() / (n_calibration + 1)
    thresholds = thresholds * (1 + 4 * torch.finfo(p_values.dtype).eps)  # k/(n + 1) counts as <= k/(n + 1)
    below = (wide[:, None] <= thresholds).sum(0).numpy()
    n_good, bounds = m, sizes[-1][1]
    if not selection:
        smaller = [size for size, _ in sizes[:-1]]
        for (size, bounds), next_size in zip(reversed(sizes), [*reversed(smaller), -1], strict=True):
            # so many good inputs or fewer agree with the counts: of i at least count - (m - i) are below a threshold
            n_good = max(0, min(size, int((bounds + m - below).min())))
            if n_good > next_size:
                break
    at_most = torch.from_numpy(np.minimum(bounds, n_good))
    return DiscoveryBounds(wide, n_good, thresholds, at_most, delta)
