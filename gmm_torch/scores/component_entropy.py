"""Negative entropy of the components' posterior."""

from torch import Tensor

from gmm_torch.features.features import Features
from gmm_torch.scores.layer_mixtures import LayerMixtures


class ComponentEntropy(LayerMixtures):
    """Sum over the layers of sum_k p(k | z) log p(k | z): minus the entropy of the posterior of the components.

    Low between components, and blind to how far all of them are.

    Args: those of `LayerMixtures`.
    """

    name = "component_entropy"

    def forward(self, outputs: Features) -> Tensor:
        """(N,), in nats, between - L log K and 0."""
        log_p = [joint.log_softmax(1) for joint in self.log_joints(outputs)]
        entropies = [(each.exp() * each).sum(1) for each in log_p]
        return sum(entropies[1:], start=entropies[0])
