"""What one forward pass of a classifier gives a detector."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Outputs(NamedTuple):
    """Logits and features of the same N inputs.

    Attributes:
        logits: (N, C).
        features: by layer, each (N, D_layer).
    """

    logits: Tensor
    features: dict[str, Tensor]

    @staticmethod
    def cat(parts: Sequence["Outputs"]) -> "Outputs":
        """Several batches, one after another."""
        features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
        return Outputs(torch.cat([part.logits for part in parts]), features)

    def to(self, device: torch.device) -> "Outputs":
        """The same on `device`."""
        return Outputs(self.logits.to(device), {name: value.to(device) for name, value in self.features.items()})
