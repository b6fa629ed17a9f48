"""What families share that have variances only, without covariances between features."""

from torch import Tensor

from gmm_torch.covariance.base import CovarianceFamily, Factors
from gmm_torch.functional.positive_definite import require_positive


class Variances(CovarianceFamily):
    """Factors: {"factor": any shape}, inverse standard deviations."""

    by_point = True

    def covariances(self, factors: Factors, n_features: int) -> Tensor:
        """Variances, in the shape of the factors."""
        return factors["factor"].square().reciprocal()

    def from_covariances(self, covariances: Tensor) -> Factors:
        """From variances > 0."""
        return {"factor": require_positive(covariances, "covariances").rsqrt()}

    def from_precisions(self, precisions: Tensor) -> Factors:
        """From numbers > 0."""
        return {"factor": require_positive(precisions, "precisions").sqrt()}

    def unconstrain(self, factors: Factors) -> Factors:
        """Logarithms."""
        return {"factor": factors["factor"].log()}

    def constrain(self, raw: Factors) -> Factors:
        """Exponentials."""
        return {"factor": raw["factor"].exp()}
