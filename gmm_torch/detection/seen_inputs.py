"""Which inputs a detector has learned from, so that it is not calibrated on them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MAX_KEYS = 10_000  # of each kind: enough to estimate a share by


class SeenInputs(nn.Module):
    """Hashes of what inputs hold, the smallest of them: a random sample that no order has a part in."""

    fitted: Tensor  # (F,) int64, of inputs that the score learned from; empty for a score that learns nothing
    reference: Tensor  # (R,) int64, of inputs that the weights of the calibration were learned from

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.empty(0, dtype=torch.long))
        self.register_buffer("reference", torch.empty(0, dtype=torch.long))

    def fit(self, keys: Tensor) -> None:
        """Take the keys (N, 2) of fitting inputs, and forget all others."""
        self.fitted, self.reference = _smallest(keys), keys.new_empty(0)

    def adapt(self, keys: Tensor) -> None:
        """Take the keys (N, 2) of reference inputs, in place of earlier ones."""
        self.reference = _smallest(keys)

    def reserve(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make room for stored keys."""
        for name, buffer in list(self.named_buffers()):
            setattr(self, name, buffer.new_zeros(shapes.get(name, (0,))))


def n_among(keys: Tensor, seen: Tensor) -> int:
    """How many of the inputs with keys (N, 2) are among those seen (M,)."""
    return int(torch.isin(keys[:, 1], seen).sum())


def _smallest(keys: Tensor) -> Tensor:
    return keys[:, 1].sort().values[:MAX_KEYS].clone(memory_format=torch.contiguous_format)
