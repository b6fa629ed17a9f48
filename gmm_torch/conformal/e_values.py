"""Conformal e-values: evidence against single inputs that may be averaged, and that needs no word on dependence.

An e-value is a number >= 0 whose mean is at most 1 for a good input. What p-values lose by depending on each other,
e-values don't: a mean of e-values is one, over calibration sets, scores, views or inputs, and so is a product over
inputs that have calibration sets of their own.
"""

import torch
from torch import Tensor

from gmm_torch.checks import check_finite_scores, check_probability, check_scores
from gmm_torch.conformal.p_values import comparable
from gmm_torch.devices import widest

MAX_NUMBERS = 4_000_000  # numbers at a time


def soft_rank_e_values(scores: Tensor, calibration: Tensor, sharpness: float = 2.0) -> Tensor:
    """e = (n + 1) w / (w + sum of all w_i), with the weight w = exp(-sharpness * score in units of the spread).

    For a score exchangeable with the calibration scores the mean of e is exactly 1, because e is the input's share of a
    sum over n + 1 exchangeable inputs (Ren, Barber 2024, "Derandomised knockoffs", and Bashari, Epstein, Romano, Sesia
    2023, "Derandomized novelty detection with FDR control via conformal e-values", have such shares). Mean and spread
    are those of all n + 1, the new one included, so they favour none.

    It looks at one input by itself, so the inputs of a batch may depend on each other in any way. Where all inputs and
    all calibration inputs are exchangeable together, e-values that look at the whole batch find more, such as
    nonconform's, and so does `discoveries`.

    Args:
        scores: (m,), higher = more typical; NaN counts as the least typical of all.
        calibration: (n,), finite, in any order.
        sharpness: above 0; a higher one looks at the lowest scores alone.

    Returns:
        (m,) in [0, n + 1], float64, or float32 on a device that has no other.

    Raises:
        ValueError: shapes, calibration scores that are not finite, a sharpness that is not above 0.
    """
    check_scores("calibration scores", calibration)
    check_finite_scores(calibration)
    if not 0 < sharpness < torch.inf:
        raise ValueError(f"sharpness: expected a finite number above 0; got {sharpness}")
    wide = widest(calibration.device)
    known, new, n = calibration.detach().to(wide), comparable(scores).to(wide), len(calibration)
    largest = torch.maximum(known.abs().max(), known.new_tensor(torch.finfo(wide).tiny))
    parts = []
    for part in new.split(max(1, MAX_NUMBERS // n)):
        # in units of the largest number of each bag, so that nothing overflows
        unit = torch.maximum(torch.where(part.isinf(), 0.0, part.abs()), largest)[:, None]
        finite = torch.where(part.isinf(), 0.0, part)[:, None] / unit
        bag = torch.cat([finite, known / unit], 1)  # (M, n + 1)
        centred = bag - bag.mean(1, keepdim=True)
        spread = centred.square().mean(1, keepdim=True).sqrt()
        exponent = -sharpness * centred / torch.where(spread > 0, spread, 1.0)
        share = exponent.softmax(1)[:, 0] * (n + 1)
        parts.append(torch.where(part == -torch.inf, n + 1.0, torch.where(part == torch.inf, 0.0, share)))
    return torch.cat(parts) if parts else new


def e_discoveries(e_values: Tensor, q: float) -> Tensor:
    """Which inputs are failures, (m,) bool, at a false discovery rate of at most q under any dependence.

    The k largest, for the largest k of which each is at least m / (q k) (Wang, Ramdas 2022, "False discovery rate
    control with e-values", theorem 5.1). So inputs may be ranked among different calibration sets, by class too, may be
    near duplicates of each other, and e-values may be means over several splits.

    Args:
        e_values: (m,), >= 0, of any real dtype; compared in float64, or float32 on a device that has no other.
        q: false discovery rate, in (0, 1).

    Raises:
        ValueError: shapes, numbers that are complex, NaN or below 0, a q out of range.
    """
    check_probability("q", q)
    if e_values.is_complex():
        raise ValueError(f"e-values: expected real numbers; got {e_values.dtype}")
    check_scores("e-values", e_values)
    if bool((e_values < 0).any()):
        raise ValueError("e-values: expected numbers >= 0; got some below")
    wide = widest(e_values.device)
    # m / (q k), rounded to the type of the e-values, must count as enough: a few roundings of theirs
    slack = 4 * torch.finfo(e_values.dtype if e_values.is_floating_point() else wide).eps
    e_values = e_values.detach().to(wide)
    ordered = e_values.sort(descending=True).values
    k = torch.arange(1, len(ordered) + 1, device=ordered.device)
    enough = ordered * k >= len(ordered) / q * (1 - slack)
    most = int((enough * k).max())
    return e_values >= ordered[most - 1] if most else torch.zeros_like(e_values, dtype=torch.bool)
