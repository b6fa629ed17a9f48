"""Which inputs of a batch are failures, or can go out unseen, where they come from elsewhere; with weights.

Benjamini and Hochberg's procedure is not proven for weighted p-values: they depend on each other in another way than
plain ones. Jin and Candes 2023, "Model-free selective inference under covariate shift via weighted conformal p-values",
algorithm 1, ask of each input how many would be found if it were surely one of them, and its rank among the calibration
inputs were unknown. That number R, as a function of the bag of the input and the calibration inputs, says nothing of
which of them is the new one, so e = m / (q R) where p <= q R / m, and 0 elsewhere, has a mean of at most 1 for a good
input; and with e-values the rate holds (Wang, Ramdas 2022). With equal weights it is Benjamini and Hochberg's.
"""

import torch
from torch import Tensor

from gmm_torch.checks import check_count, check_one_each, check_probability, check_scores
from gmm_torch.conformal.e_values import MAX_NUMBERS, e_discoveries
from gmm_torch.conformal.p_values import comparable, rank, stream_uniforms
from gmm_torch.conformal.weighted_p_value import (
    check_log_weight,
    cumulative_weights,
    largest_log_weight,
    ordered_weights,
    smoothed_quotient,
    weighted_quotient,
)
from gmm_torch.devices import widest


def weighted_discoveries(
    scores: Tensor,
    log_weight: Tensor,
    calibration: Tensor,
    calibration_log_weights: Tensor,
    q: float,
    *,
    seed: int | None = None,
) -> Tensor:
    """Which inputs are failures, (m,) bool, at a false discovery rate of at most q where they come from elsewhere.

    On average over calibration sets and batches, for good inputs that are independent draws of Q, and weights
    w = dQ/dP that were fixed before, functions of the input alone. With weights of another Q' the rate is off by the
    total variation distance of Q and Q' times the number of good inputs at most. Not for weights by true class: a new
    input's class is not known.

    Args:
        scores, log_weight, calibration, calibration_log_weights: as for `weighted_p_value`; (m,) and (n,).
        q: false discovery rate, in (0, 1).
        seed: of a draw by which more are found, nearly as many as by Benjamini and Hochberg ("homogeneous pruning"):
            another one for each batch, chosen before. None for no draw ("deterministic pruning").

    Raises:
        ValueError: shapes, calibration scores that are not finite, weights that are NaN or infinite, a q out of range.
    """
    check_probability("q", q)
    check_log_weight(log_weight, scores)
    ordered, log_weights = ordered_weights(calibration, calibration_log_weights)
    total, largest = cumulative_weights(log_weights), largest_log_weight(log_weights)
    m, known = len(scores), log_weight < torch.inf
    check_count("number of scores", m)
    scores = torch.where(known, comparable(scores), torch.inf)  # of the others nothing can be said: not to be counted
    order = scores.argsort(stable=True)
    scores, log_weight = scores[order], log_weight.detach().to(total)[order]
    up_to, position = rank(scores, ordered), torch.arange(m, device=scores.device)
    slack = 1 + 4 * torch.finfo(total.dtype).eps  # as in `discoveries`
    parts = []
    for mine in position.split(max(1, MAX_NUMBERS // m)):
        # p-values of all (., m), were each to come with the weight of mine, which is one of the calibration inputs then
        counts = scores[mine, None] <= scores
        p = smoothed_quotient(total, largest, up_to, up_to, log_weight[mine, None], counts)
        place = position + 1 + (position < mine[:, None])  # behind mine, which is found
        passed = (p <= q * place / m * slack) & (position != mine[:, None])
        found = (place * passed).amax(1).clamp_min(1)
        own = weighted_quotient(total, largest, up_to[mine], log_weight[mine])
        parts.append(torch.where(own <= q * found / m * slack, m / (q * found), 0.0))
    e_values = torch.cat(parts)[order.argsort()]
    if seed is not None:
        e_values = e_values / stream_uniforms(1, seed).to(e_values)
    return e_discoveries(e_values, q)


def weighted_conformal_selection(
    scores: Tensor,
    log_weight: Tensor,
    calibration: Tensor,
    calibration_log_weights: Tensor,
    errors: Tensor,
    q: float,
    *,
    seed: int | None = None,
) -> Tensor:
    """Which predictions from elsewhere can go out unseen, (m,) bool: at most a share q of them wrong, on average.

    `conformal_selection` with weights: whether a prediction is wrong must depend on the input alone, not on where it
    comes from (covariate shift). Otherwise as for `weighted_discoveries`, for labelled inputs in place of good ones.

    Where no labelled prediction is wrong, scores decide nothing: an input of weight w can go out where w is at most a
    share q of w + the sum of all calibration weights. With equal weights all go out then if n >= 1 / q - 1, else none.

    Args:
        scores, log_weight: (m,), of new inputs; higher scores = more typical; one that is NaN or -inf never goes out.
        calibration, calibration_log_weights: (n,), of labelled inputs that took part in no fitting.
        errors: (n,) bool, True where the prediction is wrong.
        q, seed: see `weighted_discoveries`.
    """
    check_scores("calibration scores", calibration)
    check_one_each("errors", "calibration score", calibration, errors, flags=True, do="pass prediction != label")
    wide = widest(calibration.device)
    # the most typical are named, and a prediction that is right counts for none
    never = torch.finfo(wide).max
    calibration = torch.where(errors, -comparable(calibration).to(wide), never)
    return weighted_discoveries(
        -comparable(scores).to(wide), log_weight, calibration, calibration_log_weights, q, seed=seed
    )
