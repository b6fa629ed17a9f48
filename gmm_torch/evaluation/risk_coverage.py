"""Risk against coverage: how wrong are the predictions that a score lets through?

Inputs are accepted from the highest score (the most typical) downwards. Equal scores have no order, so each
of them carries the mean loss of its tie: every curve below is the expectation over the random orders of tied
inputs, whatever the order in which they arrive.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.checks import check_one_each, check_scores


class RiskCoverage(NamedTuple):
    """A curve with one point per number of accepted inputs, 1 to N; all float64."""

    coverage: Tensor  # (N,) share of the inputs accepted, 1/N ... 1
    risk: Tensor  # (N,) mean loss of the accepted inputs
    generalized_risk: Tensor  # (N,) summed loss of the accepted inputs / N: accepted *and* wrong


def risk_coverage(scores: Tensor, loss: Tensor) -> RiskCoverage:
    """Selective and generalized risk of the k highest-scoring inputs, for k = 1 ... N.

    Args:
        scores: (N,), higher = accepted earlier. Infinities are ordered like numbers; NaN is refused.
        loss: (N,), what accepting an input costs, usually 1 (or True) where the prediction is wrong, else 0.

    Raises:
        ValueError: if the shapes are not two equal (N,), N >= 1, or a value is NaN.
    """
    check_scores("scores", scores)
    check_scores("loss", loss)
    check_one_each("loss", "score", scores, loss)
    distinct, tie = scores.unique(return_inverse=True)  # ascending (T,), (N,)
    loss = loss.double()
    total = loss.new_zeros(len(distinct)).index_add_(0, tie, loss)  # (T,)
    size = torch.bincount(tie, minlength=len(distinct))  # (T,)
    fair_loss = (total / size)[tie]  # (N,)
    accepted_loss = fair_loss[tie.argsort(descending=True)].cumsum(0)  # (N,)
    accepted = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)
    return RiskCoverage(accepted / len(scores), accepted_loss / accepted, accepted_loss / len(scores))


def aurc(scores: Tensor, loss: Tensor) -> Tensor:
    """Area under the risk-coverage curve: the mean over k of the risk of the k highest-scoring inputs.

    Geifman, Uziel, El-Yaniv 2019, "Bias-reduced uncertainty estimation for deep neural classifiers". Arguments as for
    `risk_coverage`; float64 scalar, lower = better, 0 when nothing is wrong.
    """
    return risk_coverage(scores, loss).risk.mean()


def excess_aurc(scores: Tensor, loss: Tensor) -> Tensor:
    """AURC above that of the best order for the same losses (E-AURC, Geifman et al. 2019); 0 = best."""
    return aurc(scores, loss) - aurc(-loss.double(), loss)


def augrc(scores: Tensor, loss: Tensor) -> Tensor:
    """Area under the generalized-risk-coverage curve, by trapezoids from coverage 0.

    Traub et al. 2024, "Overcoming common flaws in the evaluation of selective classification systems": the
    risk of an undetected failure, averaged over the coverage. With 0/1 losses and error rate e it is
    e (1 - e) (1 - AUROC) + e^2 / 2. Arguments and result as for `aurc`.
    """
    risk = risk_coverage(scores, loss).generalized_risk  # (N,)
    return (risk.sum() - risk[-1] / 2) / len(risk)
