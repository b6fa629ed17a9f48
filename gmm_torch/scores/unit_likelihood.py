"""Log-likelihood of the direction of the features."""

from gmm_torch.scores.base import N_COMPONENTS
from gmm_torch.scores.log_likelihood import LogLikelihood


class UnitLikelihood(LogLikelihood):
    """`LogLikelihood` of features scaled to unit norm.

    The norm of a classifier's features follows its confidence, which attacks control; the direction follows content.

    Args: those of `LayerMixtures`.
    """

    name = "unit_likelihood"

    def __init__(
        self, n_components: int = N_COMPONENTS, covariance_type: str = "full", transform: str = "unit"
    ) -> None:
        super().__init__(n_components, covariance_type, transform)
