"""False positive rate at a true positive rate as a torchmetrics Metric."""

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gmm_torch.testing.threshold import fpr_at_tpr


class FPRAtTPR(Metric):
    """Share of failures accepted where `tpr` of the good inputs are (`gmm_torch.testing.threshold`), lower = better.

    The value is that of all updates of all processes together, in any order.

    Args:
        tpr: share of the good inputs to accept, in (0, 1].
        kwargs: of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    scores: list[Tensor]
    failure: list[Tensor]

    def __init__(self, tpr: float = 0.95, **kwargs: bool) -> None:
        super().__init__(**kwargs)
        if not 0 < tpr <= 1:
            raise ValueError(f"tpr must be in (0, 1]; got {tpr}. It is the share of good inputs to accept.")
        self.tpr = tpr
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("failure", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, failure: Tensor) -> None:
        """Add a batch.

        Args:
            scores: (N,), higher = more typical.
            failure: (N,), True or 1 for inputs that should be refused, False or 0 for good ones.
        """
        self.scores.append(scores.detach())
        self.failure.append(failure.detach().bool())

    def compute(self) -> Tensor:
        """The rate, a float64 scalar in [0, 1]."""
        scores, failure = dim_zero_cat(self.scores), dim_zero_cat(self.failure)
        return fpr_at_tpr(scores[~failure], scores[failure], self.tpr)
