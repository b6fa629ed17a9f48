"""How the mixtures of a score are fitted where nobody says otherwise."""

from typing import Literal

from torch import Tensor

from gmm_torch.distributed import share
from gmm_torch.mixture import GaussianMixture

# Features of a classifier are nearly rank-deficient: without a floor a component collapses onto a few points and
# held-out inputs look impossible. Chosen by held-out likelihood, which needs no failures.
REG_COVAR = 1e-2


def fit_mixture(mixture: GaussianMixture, features: Tensor, seed: int) -> GaussianMixture:
    """Fit a mixture of a score to features (N, D) in place, as `FailureDetector.fit` does without a fitter.

    Of several processes, which all have the same features, each takes a share.
    """
    # Few points in many dimensions: without shrinkage each component learns its own points by heart, and new inputs
    # all fall to the widest of them.
    shrinkage: Literal["oas"] | None = "oas" if mixture.family.shrinks else None
    return mixture.fit(share(features), reg_covar=REG_COVAR, shrinkage=shrinkage, seed=seed)
