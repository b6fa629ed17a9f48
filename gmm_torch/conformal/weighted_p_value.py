"""Conformal p-values with weights, for inputs that come from elsewhere than the calibration inputs."""

import torch
from torch import Tensor

from gmm_torch.conformal.p_values import rank, refused
from gmm_torch.devices import widest


def weighted_p_value(
    score: Tensor,
    log_weight: Tensor,
    calibration: Tensor,
    calibration_log_weights: Tensor,
    *,
    uniform: Tensor | None = None,
) -> Tensor:
    """p = (sum of w_i over calibration scores <= score, + w) / (sum of all w_i, + w), the weighted conformal p-value.

    With w = dQ/dP, the likelihood ratio of where the new input comes from (Q) and where the calibration inputs come
    from (P), P(p <= a) <= a for every a, ties included (Tibshirani, Barber, Candes, Ramdas 2019, "Conformal prediction
    under covariate shift", lemma 3; as p-values, Jin and Candes 2023, "Model-free selective inference under covariate
    shift via weighted conformal p-values", equation 4). Only ratios of weights matter; equal ones give
    `conformal_p_value`. With weights of another distribution Q' the rate is off by the total variation distance of Q
    and Q' at most.

    Args:
        score: (N,), higher = more typical; NaN counts as the least typical of all.
        log_weight: (N,), logarithms of the weights of the new inputs; NaN counts as plus infinity, where p is 1.
        calibration: (n,) scores, in any order; finite.
        calibration_log_weights: (n,), below plus infinity; minus infinity for a score that does not count.
        uniform: (N,), independent draws from (0, 1], with which P(p <= a) = a exactly; see `smoothed_p_value`.

    Returns:
        (N,) in [0, 1], float64, or float32 on a device that has no other; without gradient.

    Raises:
        ValueError: shapes; calibration scores or weights that are NaN or plus infinity.

    Examples:
        >>> calibration, log_weights = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]).log()
        >>> weighted_p_value(torch.tensor([2.5]), torch.tensor([2.0]).log(), calibration, log_weights)
        tensor([0.5000], dtype=torch.float64)
    """
    ordered, log_weights = ordered_weights(calibration, calibration_log_weights)
    check_log_weight(log_weight, score)
    total = cumulative_weights(log_weights)
    largest = largest_log_weight(log_weights)
    up_to = rank(score, ordered)
    if uniform is None:
        return weighted_quotient(total, largest, up_to, log_weight)
    return smoothed_quotient(total, largest, rank(score, ordered, right=False), up_to, log_weight, uniform)


def ordered_weights(calibration: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Calibration scores (n,) ascending with their log-weights, of equal scores the lighter first.

    So sums of weights are the same, to the last digit, in whatever order the scores came.

    Raises:
        ValueError: shapes; NaN or infinite scores; log-weights that are NaN or plus infinity.
    """
    if calibration.dim() != 1 or calibration.shape != log_weights.shape:
        raise ValueError(
            f"calibration scores and log-weights: expected one of each per input, shape (n,); got "
            f"{tuple(calibration.shape)} and {tuple(log_weights.shape)}"
        )
    bad = int((~(log_weights < torch.inf)).sum()), int((~calibration.isfinite()).sum())
    if any(bad):
        raise ValueError(
            f"calibration scores and log-weights: expected finite scores and log-weights below infinity; got {bad[1]} "
            f"scores and {bad[0]} log-weights of {len(calibration)} that are not: look for such inputs"
        )
    calibration, log_weights = calibration.detach(), log_weights.detach().to(widest(log_weights.device))
    order = log_weights.argsort(stable=True)
    order = order[calibration[order].argsort(stable=True)]
    return calibration[order], log_weights[order]


def check_log_weight(log_weight: Tensor, score: Tensor) -> None:
    """Raise unless there is a log-weight for each score (N,)."""
    if score.dim() != 1:
        raise ValueError(f"scores: expected shape (N,); got {tuple(score.shape)}")
    if log_weight.shape != score.shape or not log_weight.is_floating_point():
        raise ValueError(
            f"log-weights: expected one number per score, shape {tuple(score.shape)}; got {tuple(log_weight.shape)} of "
            f"{log_weight.dtype}"
        )


def largest_log_weight(log_weights: Tensor) -> Tensor:
    """(), the unit of the sums: the largest of calibration log-weights (n,); 0 where nothing counts."""
    largest = log_weights.amax() if len(log_weights) else log_weights.new_tensor(-torch.inf)
    return torch.where(largest.isinf(), torch.zeros_like(largest), largest)


def cumulative_weights(log_weights: Tensor) -> Tensor:
    """(n + 1,), sums of the first 0 to n weights, in units of the largest; exact where all are equal."""
    weights = (log_weights - largest_log_weight(log_weights)).exp()
    return torch.cat([weights.new_zeros(1), weights.cumsum(0)])


def weighted_quotient(total: Tensor, largest: Tensor, up_to: Tensor, log_weight: Tensor) -> Tensor:
    """(total[up_to] + w) / (total[n] + w), (N,); never above 1, never decreasing in `up_to`.

    Of `cumulative_weights` (n + 1,) in the unit `largest` (), the number `up_to` (N,) int64 of calibration scores not
    above each score, and the new inputs' log-weights (N,).
    """
    scale, own = _in_common_unit(log_weight, largest)
    return _quotient(total[up_to] * scale + own, total[-1] * scale + own)


def smoothed_quotient(
    total: Tensor, largest: Tensor, below: Tensor, up_to: Tensor, log_weight: Tensor, uniform: Tensor
) -> Tensor:
    """`weighted_quotient` with the place among equal scores drawn, (N,); `below` counts those under each score."""
    scale, own = _in_common_unit(log_weight, largest)
    equal = (total[up_to] - total[below]) * scale + own
    return _quotient(total[below] * scale + uniform.to(own) * equal, total[-1] * scale + own)


def weighted_threshold(total: Tensor, largest: Tensor, log_weight: Tensor, alpha: float) -> Tensor:
    """(N,) int64, how many calibration scores a score must not be below for p > alpha; 0 where it always is.

    Found by bisection on the p-values themselves, so that it never disagrees with them.
    """
    low, high = torch.zeros_like(log_weight, dtype=torch.long), torch.full_like(log_weight, len(total) - 1).long()
    for _ in range(len(total).bit_length()):
        middle = (low + high) // 2
        short = refused(weighted_quotient(total, largest, middle, log_weight), alpha)
        low, high = torch.where(short & (low < high), middle + 1, low), torch.where(short, high, middle)
    return high


def effective_sample_size(log_weights: Tensor) -> float:
    """(sum w)^2 / sum w^2 of weights (n,), between 1 and n: as many equal weights say as much; 0 where none counts."""
    weights = (log_weights.double() - largest_log_weight(log_weights)).exp()
    squares = float(weights.square().sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _in_common_unit(log_weight: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """What brings sums to the larger unit of both, (N,) <= 1, and the new weights in it, (N,) <= 1."""
    log_weight = torch.nan_to_num(log_weight.detach().to(largest), nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    unit = torch.maximum(log_weight, largest)
    infinite = unit == torch.inf
    scale = torch.where(infinite, torch.zeros_like(unit), (largest - unit).exp())
    return scale, torch.where(infinite, torch.ones_like(unit), (log_weight - unit).exp())


def _quotient(part: Tensor, whole: Tensor) -> Tensor:
    # where neither the new input nor any calibration input counts, nothing can be said
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 1.0)
