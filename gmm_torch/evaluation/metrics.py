"""Metrics of scores, higher = more typical: areas under risk-coverage curves, and the false positive rate.

Inputs are accepted from the highest score downwards. Tied inputs share the mean loss of their tie, so each curve is the
expectation over random orders of tied inputs, in any order of arrival.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.checks import check_one_each, check_scores


def unit_ranks(scores: Tensor) -> Tensor:
    """Dense ranks of scores (N,), scaled to [0, 1] in float64: ties stay ties, infinities become numbers.

    torchmetrics pushes values outside [0, 1] through a sigmoid, which turns every log-likelihood below
    about -100 into the same 0. Its ranking metrics only need the order, which this keeps.
    """
    distinct, rank = scores.unique(return_inverse=True)
    unit: Tensor = rank.double() / max(1, len(distinct) - 1)
    return unit


class RiskCoverage(NamedTuple):
    """A curve with one point per number of accepted inputs, 1 to N; all float64."""

    coverage: Tensor  # (N,) share of the inputs accepted, 1/N ... 1
    risk: Tensor  # (N,) mean loss of the accepted inputs
    generalized_risk: Tensor  # (N,) summed loss of the accepted inputs / N: accepted *and* wrong


def risk_coverage(scores: Tensor, loss: Tensor) -> RiskCoverage:
    """Selective and generalized risk of the k highest-scoring inputs, for k = 1 ... N.

    Args:
        scores: (N,), higher = accepted earlier. Infinities are ordered like numbers; NaN is refused.
        loss: (N,), the cost of accepting an input, usually 1 (or True) where the prediction is wrong, else 0.

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


def fpr_at_tpr(good: Tensor, failures: Tensor, tpr: float = 0.95) -> Tensor:
    """Share of the failures accepted where at least `tpr` of the good inputs are: float64 scalar, lower = better.

    The threshold is the k-th highest score of the good inputs, with the smallest k whose float64 quotient k / N is at
    least `tpr`. Failures that tie with it count as accepted, as the good inputs there do: a constant score has rate 1.

    Args:
        good, failures: (N,) and (M,) scores, higher = more typical.
        tpr: share of the good inputs to accept, in (0, 1].

    Raises:
        ValueError: if a sample is empty, not 1-D or holds NaN, or `tpr` is outside (0, 1].
    """
    check_scores("good", good)
    check_scores("failures", failures)
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr: expected a number in (0, 1]; got {tpr}: give 0.95 for 95 %")
    n = len(good)
    shares = torch.arange(1, n + 1, dtype=torch.float64) / n  # 0.07 * 100 > 7 in floating point, but 7 / 100 is 0.07
    k = int((shares < tpr).sum()) + 1
    return (failures >= good.topk(k).values[-1]).to(torch.float64).mean()
