"""Tests of a whole batch: does it come from where the calibration inputs come from?"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from gmm_torch.checks import check_choice, check_count, check_scores
from gmm_torch.conformal.p_values import comparable

MAX_NUMBERS = 4_000_000  # numbers at a time in the reassignments

Statistic = Literal["fisher", "rank_sum", "kolmogorov"]


def batch_p_value(
    scores: Tensor, calibration: Tensor, statistic: Statistic = "fisher", n_permutations: int = 999, seed: int = 0
) -> float:
    """Permutation p-value (1 + #{permuted >= observed}) / (n_permutations + 1) of "same distribution".

    Exactly valid: if batch and calibration scores are exchangeable, P(p <= a) <= a for every a, whatever the ties, the
    sizes and the statistic, which is compared with its own values after random reassignments of who is in the batch.

    Args:
        scores: (m,), of the batch; NaN counts as the least typical of all.
        calibration: (n,), in any order.
        statistic: what to look for.
            "fisher": some inputs of very low score; sum of -log(rank / (n + m)) (Fisher's combination).
            "rank_sum": all inputs a little low; the sum of the ranks (Mann, Whitney 1947).
            "kolmogorov": any difference, scores that are too high included; the largest difference of the two
            distribution functions (Kolmogorov, Smirnov).
        n_permutations: random reassignments; the p-value is never below 1 / (n_permutations + 1).

    Raises:
        ValueError: an empty sample, NaN among the calibration scores, an unknown statistic.
    """
    check_scores("calibration scores", calibration)
    batch = comparable(scores)
    check_scores("batch scores", batch)
    check_count("n_permutations", n_permutations)
    check_choice("statistic", statistic, _STATISTICS)
    pooled, order = torch.cat([batch, comparable(calibration).to(batch.device)]).cpu().double().sort()  # (m + n,)
    measure = _STATISTICS[statistic]
    observed = measure(pooled, (order < len(batch))[None].double())
    generator = torch.Generator().manual_seed(seed)
    at_least = 0
    chunk = max(1, MAX_NUMBERS // len(pooled))
    for start in range(0, n_permutations, chunk):
        shape = (min(chunk, n_permutations - start), len(pooled))
        chosen = torch.rand(shape, generator=generator, dtype=torch.float64).topk(len(batch), 1).indices
        member = torch.zeros(shape, dtype=torch.float64).scatter_(1, chosen, 1.0)
        # rounding may separate equal values; counting them as equal is on the safe side
        at_least += int((measure(pooled, member) >= observed - 1e-9 * observed.abs()).sum())
    return (1 + at_least) / (n_permutations + 1)


def _fisher(pooled: Tensor, member: Tensor) -> Tensor:
    return -(member @ (_mid_ranks(pooled) / len(pooled)).log())


def _rank_sum(pooled: Tensor, member: Tensor) -> Tensor:
    return -(member @ _mid_ranks(pooled))


def _kolmogorov(pooled: Tensor, member: Tensor) -> Tensor:
    last_of_tie = torch.cat([pooled[1:] != pooled[:-1], torch.tensor([True])])
    in_batch = member.cumsum(1)
    outside = torch.arange(1, len(pooled) + 1, dtype=torch.float64) - in_batch
    difference = in_batch / in_batch[:, -1:] - outside / outside[:, -1:]
    return difference[:, last_of_tie].abs().amax(1)


# From all scores (m + n,), ascending, and who is in the batch (R, m + n), 0 or 1, to the statistic (R,).
_STATISTICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fisher": _fisher,
    "rank_sum": _rank_sum,
    "kolmogorov": _kolmogorov,
}


def _mid_ranks(ordered: Tensor) -> Tensor:
    """1-based ranks of sorted values, the mean rank for ties; float64."""
    _, tie, size = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    result: Tensor = (size.cumsum(0) - (size - 1) / 2)[tie].double()
    return result
