"""What a calibration keeps of inputs: a few numbers each, whatever the widths of the features."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_torch.detection.features.outputs import precisions
from gmm_torch.distributed import gather_objects, gather_rows
from gmm_torch.sampling import salted, shuffle


class Reduced(NamedTuple):
    """Of N inputs.

    Attributes:
        statistics: (N, J), of the score; see `Score.statistics`.
        prediction: (N,) int64, predicted classes.
        inside: (N,) bool, whether all numbers are of a size that the score may be asked about.
        keys: (N, 2) int64, as in `Outputs`.
        precision: as in `Outputs`.
    """

    statistics: Tensor
    prediction: Tensor
    inside: Tensor
    keys: Tensor
    precision: str

    def shuffled(self) -> Tensor:
        """(N,) int64, the order of `Outputs.shuffled`."""
        return shuffle(salted(self.keys))

    @staticmethod
    def cat(parts: Sequence["Reduced"]) -> "Reduced":
        """Several batches, one after another."""
        statistics, prediction, inside, keys, found = zip(*parts, strict=True)
        return Reduced(
            torch.cat(statistics), torch.cat(prediction), torch.cat(inside), torch.cat(keys), precisions(found)
        )

    def gathered(self) -> "Reduced":
        """Those of all processes, one after another."""
        return self._map(gather_rows)._replace(precision=precisions(gather_objects(self.precision)))

    def rows(self, index: Tensor) -> "Reduced":
        """Some of the inputs."""
        return self._map(lambda value: value[index])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Reduced":
        statistics, prediction, inside, keys, precision = self
        return Reduced(change(statistics), change(prediction), change(inside), change(keys), precision)
