"""Whether the outputs of a stream are finite: counted as they come, raised together at the end."""

import torch
from torch import Tensor

from gmm_torch.detection.features.outputs import Outputs
from gmm_torch.distributed import gather_objects


class FiniteCheck:
    """How many of a stream's inputs give features that are not finite, by layer."""

    def __init__(self) -> None:
        self.n_batches = self.n = 0
        self._bad: dict[str, Tensor] = {}

    def add(self, outputs: Outputs) -> None:
        """Look at the next batch; nothing waits for a device."""
        self.n_batches += 1
        self.n += len(outputs.logits)
        for layer, value in outputs.features.items():
            bad = (~torch.isfinite(value).flatten(1).all(1)).sum()
            self._bad[layer] = self._bad.get(layer, 0) + bad

    def check(self, *, together: bool = False) -> None:
        """Raise where there were any; of the streams of all processes, in each of them, if `together`.

        Raises:
            ValueError: no batch, or features that are not finite.
        """
        own = (self.n_batches, self.n, {layer: int(bad) for layer, bad in self._bad.items()})
        found = gather_objects(own) if together else [own]
        if not all(n_batches for n_batches, _, _ in found):
            raise ValueError(f"loader: expected at least one batch{' in every process' * (len(found) > 1)}; got none")
        n = sum(n for _, n, _ in found)
        for layer in self._bad:
            bad = sum(counts.get(layer, 0) for _, _, counts in found)
            if bad:
                raise ValueError(
                    f"features of layer {layer!r}: {bad} of {n} inputs give NaN or infinity: look for such inputs, or "
                    "for a classifier that overflows"
                )
