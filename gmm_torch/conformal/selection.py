"""Selection of failures from a batch, with a bounded false discovery rate.

Conformal p-values of one batch share their calibration set and are dependent, but positively (PRDS), so the
Benjamini-Hochberg procedure keeps FDR <= q (share of good inputs) with them: Bates, Candes, Lei, Romano, Sesia 2023,
"Testing for outliers with conformal p-values". Storey's estimate keeps it too: Marandon, Lei, Mary, Roquain 2024,
"Adaptive novelty detection with false discovery rate guarantee". Both hold on average over calibration sets and
batches, for good inputs exchangeable with the calibration inputs and any failures; with p-values of
`ConditionalCalibration` given the calibration set, for a share 1 - delta of sets.
"""

import math

import scipy
import torch
from torch import Tensor

from gmm_torch.checks import check_p_values, check_probability

__all__ = ["adjusted_p_values", "discoveries", "null_proportion"]


def adjusted_p_values(p_values: Tensor, null_proportion: float = 1.0) -> Tensor:
    """The smallest q at which each input would be a discovery: min over j >= rank of (share m p_(j) / j), at most 1.

    Benjamini and Hochberg 1995; with a `null_proportion` below 1 these are Storey's q-values (Storey 2002).

    Args:
        p_values: (m,) in [0, 1].
        null_proportion: share of good inputs, known or estimated; an estimate may be above one.

    Returns:
        (m,) float64.
    """
    check_p_values(p_values)
    if not 0 < null_proportion < math.inf:
        raise ValueError(f"null_proportion: expected a positive number; got {null_proportion}")
    known = p_values.detach().cpu().double().numpy()
    adjusted = scipy.stats.false_discovery_control(known)  # at most the largest p-value
    return torch.from_numpy(adjusted).mul(null_proportion).clamp(max=1).to(p_values.device)


def null_proportion(p_values: Tensor, split: float = 0.5) -> float:
    """Storey's estimate of the share of good inputs: (1 + #{p > split}) / (m (1 - split)).

    Storey, Taylor, Siegmund 2004, "Strong control, conservative point estimation and simultaneous conservative
    consistency of false discovery rates", with split (0, 1) for their lambda. The procedure is exact in finite samples
    due to the added one, and because an estimate above one is not cut: that would let the false discovery rate of a
    batch without failures slightly exceed q.
    """
    check_p_values(p_values)
    check_probability("split", split)
    return (1 + int((p_values > split).sum())) / (len(p_values) * (1 - split))


def discoveries(p_values: Tensor, q: float, *, storey: bool = False) -> Tensor:
    """Failures of a batch, (m,) bool: on average at most a share q of those named is good (0 if none is named).

    With n calibration scores no p-value is below 1/(n + 1): a single failure among m inputs can be found only if
    n + 1 >= m / q.

    Args:
        p_values: (m,), conformal p-values of one batch.
        q: false discovery rate, in (0, 1).
        storey: estimate the share of good inputs from the batch, which finds more if there are many failures.
    """
    check_probability("q", q)
    share = null_proportion(p_values) if storey else 1.0
    p_values = p_values if p_values.is_floating_point() else p_values.double()
    # 0.05 * 20 / 20 must count as <= 0.05: a few roundings of the p-values' type
    return adjusted_p_values(p_values, share) <= q * (1 + 4 * torch.finfo(p_values.dtype).eps)
