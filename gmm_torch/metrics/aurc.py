"""Area under the risk-coverage curve as a torchmetrics Metric."""

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gmm_torch.testing.risk_coverage import aurc


class AURC(Metric):
    """Area under the risk-coverage curve (`gmm_torch.testing.risk_coverage.aurc`), lower = better.

    The value is that of all updates of all processes together, in any order.
    """

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
        """Add a batch.

        Args:
            scores: (N,), higher = accepted earlier.
            loss: (N,), usually 1 or True where the prediction is wrong.
        """
        self.scores.append(scores.detach())
        self.loss.append(loss.detach().double())

    def compute(self) -> Tensor:
        """The area, a float64 scalar."""
        return aurc(dim_zero_cat(self.scores), dim_zero_cat(self.loss))
