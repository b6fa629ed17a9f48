"""What a classifier gives a detector: logits and features of every view of every input."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.detection.inputs import Inputs, check_inputs, keys_of
from gmm_torch.sampling import row_keys, salted, shuffle


class Outputs(NamedTuple):
    """Logits and features of V views of the same N inputs; the first view is the input itself.

    Attributes:
        logits: (N, V, C), at least float32.
        features: by layer, each (N, V, D_layer), at least float32.
        labels: (N,) int64, only where a score asks for labels.
        keys: (N, 2) int64, `row_keys` of the inputs, where they are known: what is drawn at random is drawn by them.
        precision: in which the classifier computed them, in words; see `gmm_torch.detection.precision`. Empty where
            nobody knows.
        statistics: by layer, of how many equal parts its features consist, as a mean and a deviation are two; one
            where a layer is not named.
    """

    logits: Tensor
    features: dict[str, Tensor]
    labels: Tensor | None = None
    keys: Tensor | None = None
    precision: str = ""
    statistics: Mapping[str, int] | None = None

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

    def with_keys_of(self, x: Inputs) -> "Outputs":
        """The same with the keys of their inputs, as a classifier takes them; labels among them count for nothing."""
        return self._replace(keys=keys_of(check_inputs(x)))

    def parts(self, layer: str, n_views: int) -> Tensor:
        """Features of the first of the views, (N, V, S, D): the statistics that they consist of, one by one."""
        n_statistics = (self.statistics or {}).get(layer, 1)
        result: Tensor = self.features[layer][:, :n_views].unflatten(-1, (n_statistics, -1))
        return result

    def shuffled(self) -> Tensor:
        """(N,) int64, the inputs in a random order that depends on what they are, and not on how they came.

        It follows from the keys of all the inputs, or from the logits where there are none.
        """
        keys = row_keys(self.logits.flatten(1), 0) if self.keys is None else self.keys
        return shuffle(salted(keys))

    @staticmethod
    def cat(parts: Sequence["Outputs"]) -> "Outputs":
        """Several batches, one after another."""
        features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
        logits = torch.cat([part.logits for part in parts])
        labels, keys = (_joined([getattr(part, name) for part in parts]) for name in ("labels", "keys"))
        precision = ", then ".join(dict.fromkeys(part.precision for part in parts))
        return Outputs(logits, features, labels, keys, precision, parts[0].statistics)

    def rows(self, index: Tensor | slice) -> "Outputs":
        """Some of the inputs."""
        return self.map(lambda value: value[index])

    def to(self, dtype: torch.dtype) -> "Outputs":
        """The same in another floating-point type."""
        return self.map(lambda value: value.to(dtype) if value.is_floating_point() else value)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Outputs":
        """Every tensor changed in the same way."""
        features = {name: change(value) for name, value in self.features.items()}
        labels, keys = (None if value is None else change(value) for value in (self.labels, self.keys))
        return self._replace(logits=change(self.logits), features=features, labels=labels, keys=keys)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The parts one after another; None where one of them is missing."""
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None
