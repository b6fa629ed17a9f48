"""What a classifier gives a detector: logits and features of every view of every input."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Outputs(NamedTuple):
    """Logits and features of V views of the same N inputs; the first view is the input itself.

    Attributes:
        logits: (N, V, C).
        features: by layer, each (N, V, D_layer).
    """

    logits: Tensor
    features: dict[str, Tensor]

    @property
    def own_logits(self) -> Tensor:
        """(N, C), of the inputs themselves."""
        return self.logits[:, 0]

    @staticmethod
    def cat(parts: Sequence["Outputs"]) -> "Outputs":
        """Several batches, one after another."""
        features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
        return Outputs(torch.cat([part.logits for part in parts]), features)

    def rows(self, index: Tensor | slice) -> "Outputs":
        """Some of the inputs."""
        return Outputs(self.logits[index], {name: value[index] for name, value in self.features.items()})
