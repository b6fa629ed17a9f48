"""The detector's memory of its inputs: the range of their numbers, and which inputs they were."""

from typing import Self

import torch
from torch import Tensor, nn

from gmm_torch.features.features import Features, in_chunks

FACTOR = 1000  # times the largest number seen in fitting, or one where that is smaller
MAX_FITTED = 100_000  # keys; of more, a sample is kept
FEWEST = 3  # inputs that are known again before a sample gives an estimate of the share


class ValidRange(nn.Module):
    """Test for inputs with a number that is NaN or far larger than any seen in fitting.

    No score can be trusted there: a softmax of logits of 10^30 is one, and a margin between components grows without
    bound. The range is fixed before calibration inputs are ranked, so p-values stay valid.
    """

    largest: Tensor  # (1 + L,), magnitude of the logits and of the features of each layer on fitting inputs

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.empty(0))

    def build(self, n_layers: int) -> None:
        """Make room for `n_layers` layers."""
        self.largest = torch.zeros(1 + n_layers)

    def fit(self, features: Features) -> Self:
        """Learn from the features of fitting inputs."""
        self.largest = in_chunks(_magnitudes, features).amax(0)
        return self

    def forward(self, features: Features) -> Tensor:
        """(N,) bool, True where all numbers of an input, in all its views, are in range."""
        # NaN compares false; divided, since the product could overflow and infinity would pass
        return (_magnitudes(features) / FACTOR <= self.largest.clamp_min(1)).all(1)


def _magnitudes(features: Features) -> Tensor:
    """(N, 1 + L), without gradient, NaN where there is one."""
    values = (features.logits, *features.layers.values())
    return torch.stack([value.detach().abs().flatten(1).amax(1) for value in values], dim=1)


class SeenInputs(nn.Module):
    """Hashes of the inputs that a detector has learned from, each once and ascending.

    Calibration on such inputs would be invalid. Of many fitting inputs the smallest hashes are kept: a random sample
    that does not depend on order or repeats.
    """

    fitted: Tensor  # (F,) int64, of inputs that the score learned from; empty for a score that learns nothing
    reference: Tensor  # (R,) int64, of all inputs that the weights of the calibration were learned from
    sized_by_data = ("fitted", "reference")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.empty(0, dtype=torch.long))
        self.register_buffer("reference", torch.empty(0, dtype=torch.long))

    def fit(self, keys: Tensor) -> None:
        """Take the keys (N, 2) of fitting inputs, and forget all others."""
        self.fitted, self.reference = keys[:, 1].unique()[:MAX_FITTED].clone(), keys.new_empty(0)

    def adapt(self, keys: Tensor) -> None:
        """Take the keys (N, 2) of reference inputs, in place of earlier ones."""
        self.reference = keys[:, 1].unique()

    def share_fitted(self, keys: Tensor, sampled: float = 1.0) -> tuple[float, str]:
        """The share of inputs with keys (N, 2) that are among the fitting inputs, and their number as text.

        Args:
            keys: of the inputs.
            sampled: the share of the fitting inputs whose keys `fit` was given.
        """
        own = keys[:, 1]
        if len(self.fitted) == MAX_FITTED:
            own = own[own <= self.fitted[-1]]  # of the others nothing is known
        known, n = n_among(own, self.fitted), len(keys)
        if len(own) == n and sampled == 1:
            return known / max(1, n), str(known)
        share = min(1.0, known / max(1, len(own)) / sampled) if known >= FEWEST else 0.0
        return share, f"about {share:.0%}"


def n_among(keys: Tensor, seen: Tensor) -> int:
    """Number of the keys (N,) that are among those seen (M,)."""
    return int(torch.isin(keys, seen).sum())
