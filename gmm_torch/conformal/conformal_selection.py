"""Which predictions can go out unseen, with a bounded share of wrong ones: the mirror image of refusal."""

import torch
from torch import Tensor

from gmm_torch.checks import check_one_each, check_scores
from gmm_torch.conformal.false_discovery import discoveries
from gmm_torch.conformal.p_values import comparable, quotient


def selection_p_values(scores: Tensor, calibration: Tensor, errors: Tensor) -> Tensor:
    """p = (1 + #{calibration inputs that are wrong and score >= score}) / (n + 1): small where a prediction is safe.

    P(p <= a and the prediction is wrong) <= a for every a, for inputs exchangeable with the calibration inputs (Jin,
    Candes 2023, "Selection by prediction with conformal p-values", lemma 2.3, with the clipped score and ties counted
    on the safe side). Not a p-value given that the prediction is wrong: right ones count in n.

    Args:
        scores: (m,), higher = more typical; NaN and -inf, of which nothing is known, have p = 1.
        calibration: (n,), scores of labelled inputs that took part in no fitting.
        errors: (n,) bool, True where the prediction is wrong.

    Raises:
        ValueError: shapes, NaN among the calibration scores.
    """
    check_scores("calibration scores", calibration)
    check_one_each("errors", "calibration score", calibration, errors, flags=True, do="pass prediction != label")
    dtype = torch.promote_types(scores.dtype, calibration.dtype)
    wrong = comparable(calibration)[errors].to(dtype).sort().values
    below = torch.searchsorted(wrong, comparable(scores).to(dtype).contiguous())
    p = quotient(1 + len(wrong) - below, len(calibration) + 1)
    # Where no labelled prediction is wrong, even the lowest score has a p-value below 1.
    return p.masked_fill(scores.isnan() | scores.isneginf(), 1.0)


def conformal_selection(scores: Tensor, calibration: Tensor, errors: Tensor, q: float) -> Tensor:
    """Which predictions can go out unseen, (m,) bool: the expected share of wrong ones among them is at most q.

    Benjamini and Hochberg's procedure on `selection_p_values` (Jin, Candes 2023, theorem 2.6): for labelled and new
    inputs that are exchangeable, on average over both. The share is 0 where none goes out. Where no labelled prediction
    is wrong, scores decide nothing: all go out if n >= 1 / q - 1, else none. One whose score is NaN or -inf never does.
    For bounds on the share itself, whatever one picks, give the p-values to `discovery_bounds`.
    """
    return discoveries(selection_p_values(scores, calibration, errors), q)
