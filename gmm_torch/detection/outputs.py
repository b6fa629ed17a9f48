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
        labels: (N,) int64, only where a score asks for labels.
    """

    logits: Tensor
    features: dict[str, Tensor]
    labels: Tensor | None = None

    @property
    def own_logits(self) -> Tensor:
        """(N, C), of the inputs themselves."""
        return self.logits[:, 0]

    def classes(self, labels: bool) -> Tensor:
        """(N,) int64: the labels, or the predictions.

        Raises:
            ValueError: labels are asked for, but there are none.
        """
        if not labels:
            return self.own_logits.argmax(-1)
        if self.labels is None:
            raise ValueError(
                "labels: the score was told to use labels, but the batches have none: give batches (x, label, ...), "
                "or take predictions with labels=False"
            )
        return self.labels

    @staticmethod
    def cat(parts: Sequence["Outputs"]) -> "Outputs":
        """Several batches, one after another."""
        features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
        labels = [part.labels for part in parts if part.labels is not None]
        logits = torch.cat([part.logits for part in parts])
        return Outputs(logits, features, torch.cat(labels) if len(labels) == len(parts) else None)

    def rows(self, index: Tensor | slice) -> "Outputs":
        """Some of the inputs."""
        features = {name: value[index] for name, value in self.features.items()}
        return Outputs(self.logits[index], features, None if self.labels is None else self.labels[index])
