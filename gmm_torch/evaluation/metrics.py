"""Metrics of scores beside losses, kept batch by batch; each is a function of `gmm_torch.evaluation`."""

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gmm_torch.evaluation.risk_coverage import augrc, aurc
from gmm_torch.evaluation.threshold import fpr_at_tpr


class ScoreMetric(Metric):
    """A number in [0, 1], lower = better, of all updates of all processes together, in any order."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    scores: list[Tensor]
    loss: list[Tensor]

    def __init__(self, **kwargs: bool) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("loss", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, loss: Tensor) -> None:
        """Add scores (N,), higher = accepted earlier, and losses (N,), usually 1 where a prediction is wrong."""
        self.scores.append(scores.detach())
        self.loss.append(loss.detach().double())

    def compute(self) -> Tensor:
        """The number, a float64 scalar."""
        return self.of(dim_zero_cat(self.scores), dim_zero_cat(self.loss))

    def of(self, scores: Tensor, loss: Tensor) -> Tensor:
        """The number for the whole of scores and losses, (N,) each."""
        raise NotImplementedError


class AURC(ScoreMetric):
    """Area under the risk-coverage curve (`gmm_torch.evaluation.risk_coverage.aurc`)."""

    of = staticmethod(aurc)


class AUGRC(ScoreMetric):
    """Area under the generalized-risk-coverage curve (`gmm_torch.evaluation.risk_coverage.augrc`)."""

    of = staticmethod(augrc)


class FPRAtTPR(ScoreMetric):
    """Share of failures (loss 1) accepted where `tpr` of the good inputs are (`gmm_torch.evaluation.threshold`).

    Args:
        tpr: share of the good inputs to accept, in (0, 1].
    """

    def __init__(self, tpr: float = 0.95, **kwargs: bool) -> None:
        super().__init__(**kwargs)
        if not 0 < tpr <= 1:
            raise ValueError(f"tpr: expected a share of good inputs to accept, in (0, 1]; got {tpr}")
        self.tpr = tpr

    def of(self, scores: Tensor, loss: Tensor) -> Tensor:
        """See `ScoreMetric`."""
        return fpr_at_tpr(scores[loss == 0], scores[loss != 0], self.tpr)
