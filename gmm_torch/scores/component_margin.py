"""Log-odds of the most probable component against the next."""

from typing import Self

from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.base import N_COMPONENTS, Fitter
from gmm_torch.scores.feature_mixture import POINTS_PER_COMPONENT
from gmm_torch.scores.layer_mixtures import LayerMixtures


class ComponentMargin(LayerMixtures):
    """Sum over the layers of log p(k_1 | z) - log p(k_2 | z), k_1 and k_2 the two most probable components.

    Small between components, and blind to how far all of them are.

    Args: those of `LayerMixtures`; n_components is at least 2.
    """

    name = "component_margin"

    def __init__(
        self, n_components: int = N_COMPONENTS, covariance_type: str = "full", transform: str = "none"
    ) -> None:
        if n_components < 2:
            raise ValueError(f"n_components: expected at least 2 for a margin; got {n_components}")
        super().__init__(n_components, covariance_type, transform)

    def fit(self, outputs: Features, fitter: Fitter) -> Self:
        """See `Score`; raises ValueError where there are too few inputs for two components."""
        needed = 2 * POINTS_PER_COMPONENT
        if len(outputs.logits) < needed:
            raise ValueError(
                f"component_margin: expected at least {needed} fitting inputs, {POINTS_PER_COMPONENT} for each of two "
                f"components; got {len(outputs.logits)}: give more, or choose another score"
            )
        return super().fit(outputs, fitter)

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats, at least 0."""
        margins = [-joint.topk(2, dim=1).values.diff(dim=1)[:, 0] for joint in self.log_joints(outputs)]
        return sum(margins[1:], start=margins[0])
