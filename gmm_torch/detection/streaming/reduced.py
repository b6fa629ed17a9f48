"""What calibrating and reporting keep of inputs: a few numbers each, whatever the widths of the features."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from gmm_torch.detection.features.input_format import InputFormat
from gmm_torch.detection.features.outputs import each_once, joined, mapped
from gmm_torch.distributed import gather_objects, gather_rows
from gmm_torch.sampling import salted, shuffle


class Reduced(NamedTuple):
    """What is kept of N inputs; the last four as in `Outputs`."""

    statistics: Tensor  # (N, S), of the score; see `Score.statistics`
    components: Tensor  # (N, J) int64, the most probable component of each of the score's J mixtures
    prediction: Tensor  # (N,) int64, predicted classes
    inside: Tensor  # (N,) bool, whether all numbers are of a size that the score may be asked about
    keys: Tensor
    labels: Tensor | None
    precision: str
    format: InputFormat

    def shuffled(self) -> Tensor:
        """(N,) int64, the order of `Outputs.shuffled`."""
        return shuffle(salted(self.keys))

    @staticmethod
    def cat(parts: Sequence["Reduced"]) -> "Reduced":
        """Several batches, one after another."""
        return Reduced._make(map(joined, zip(*parts, strict=True)))

    def gathered(self) -> "Reduced":
        """Those of all processes, one after another."""
        found = self._map(gather_rows)
        words = zip(*gather_objects((self.precision, self.format.size, self.format.numbers)), strict=True)
        precision, size, numbers = map(each_once, words)
        return found._replace(precision=precision, format=found.format._replace(size=size, numbers=numbers))

    def rows(self, index: Tensor) -> "Reduced":
        """Some of the inputs."""
        return self._map(lambda value: value[index])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Reduced":
        return Reduced._make(mapped(change, value) for value in self)
