"""The one rule for numbers that are not finite.

Inputs to learn from, for `fit`, `calibrate` or `component_report`, are refused all together where the classifier gives
NaN or infinity for one of them: an error counts them, whichever way they came. An input that is asked about gets a
verdict all the same: score minus infinity, the smallest p-value, refused (see `ValidRange`); a batch is never refused
for one of its inputs.
"""

import torch
from torch import Tensor

from gmm_torch.distributed import gather_objects
from gmm_torch.features.features import Features
from gmm_torch.features.inputs import READ_AGAIN


class FiniteCheck:
    """How many of a stream's inputs give logits or features that are not finite."""

    def __init__(self) -> None:
        self.n = 0
        self._bad: dict[str, Tensor] = {}

    def add(self, outputs: Features) -> None:
        """Look at the next batch; nothing waits for a device."""
        self.n += len(outputs.logits)
        named = {f"features of layer {layer!r}": value for layer, value in outputs.layers.items()}
        for name, value in (named | {"logits": outputs.logits}).items():
            bad = (~torch.isfinite(value).flatten(1).all(1)).sum()
            self._bad[name] = self._bad.get(name, 0) + bad

    def check(self, *, together: bool = False) -> None:
        """Raise ValueError where there were any, or no batch; of all processes, in each of them, if `together`."""
        own = (self.n, {name: int(bad) for name, bad in self._bad.items()})
        found = gather_objects(own) if together else [own]
        if not all(counts for _, counts in found):
            raise ValueError(
                f"loader: expected at least one batch{' in every process' * (len(found) > 1)}; got none: {READ_AGAIN}"
            )
        n = sum(n for n, _ in found)
        for name in self._bad:
            bad = sum(counts.get(name, 0) for _, counts in found)
            if bad:
                raise ValueError(
                    f"{name}: expected finite numbers; {bad} of {n} inputs give NaN or infinity: look for such inputs, "
                    "or for a classifier that overflows"
                )


def check_learnable(outputs: Features, *, labels: bool) -> None:
    """Raise unless outputs that are already there are finite, with labels where these are asked for."""
    check = FiniteCheck()
    check.add(outputs)
    check.check()
    if labels:
        outputs.classes(labels=True)
