"""Which inputs a detector has learned from, so that it is not calibrated on them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MAX_FITTED = 100_000  # keys; of more, a sample is kept
FEWEST = 3  # inputs that are known again before a sample tells of a share


class SeenInputs(nn.Module):
    """Hashes of what inputs hold, each once and ascending.

    Of many fitting inputs the smallest hashes are kept: a random sample that neither order nor repeats have a part in.
    """

    fitted: Tensor  # (F,) int64, of inputs that the score learned from; empty for a score that learns nothing
    reference: Tensor  # (R,) int64, of all inputs that the weights of the calibration were learned from

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
        """The share of inputs with keys (N, 2) that are among the fitting inputs, and how many those are in words.

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

    def reserve(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make room for stored keys."""
        for name, buffer in list(self.named_buffers()):
            setattr(self, name, buffer.new_zeros(shapes.get(name, (0,))))


def n_among(keys: Tensor, seen: Tensor) -> int:
    """How many of the keys (N,) are among those seen (M,)."""
    return int(torch.isin(keys, seen).sum())
