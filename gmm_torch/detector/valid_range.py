"""What a score may be asked about: numbers of the size that it was fitted to."""

from typing import Self

import torch
from torch import Tensor, nn

from gmm_torch.features.chunks import in_chunks
from gmm_torch.features.features import Features

FACTOR = 1000  # times the largest number seen in fitting, or one where that is smaller


class ValidRange(nn.Module):
    """Refuses what is not a number, or far beyond anything seen: no score can be trusted there.

    A softmax of logits of 10^30 is one, a margin between components grows without bounds: such scores call an input
    typical because it is absurd. The bound is fixed before the calibration inputs are ranked, so p-values stay valid.
    """

    largest: Tensor  # (1 + L,), magnitude of the logits and of the features of each layer on fitting inputs

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.empty(0))

    def build(self, n_layers: int) -> None:
        """Make room for so many layers."""
        self.largest = torch.zeros(1 + n_layers)

    def fit(self, outputs: Features) -> Self:
        """Learn from the outputs on fitting inputs."""
        self.largest = in_chunks(_magnitudes, outputs).amax(0)
        return self

    def forward(self, outputs: Features) -> Tensor:
        """(N,) bool, whether all numbers of an input, in all its views, are of a size that was seen."""
        # NaN compares false; divided, since the product could overflow and infinity would pass
        return (_magnitudes(outputs) / FACTOR <= self.largest.clamp_min(1)).all(1)


def _magnitudes(outputs: Features) -> Tensor:
    """(N, 1 + L), without gradient, NaN where there is one."""
    values = (outputs.logits, *outputs.layers.values())
    return torch.stack([value.detach().abs().flatten(1).amax(1) for value in values], dim=1)
