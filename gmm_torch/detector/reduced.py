"""What calibrating and reporting keep of inputs: a few numbers each, whatever the widths of the features."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from gmm_torch.distributed import gather_objects, gather_rows
from gmm_torch.features.features import each_once, joined, mapped
from gmm_torch.features.input_format import InputFormat
from gmm_torch.mixture.sampling import salted, shuffle


class Reduced(NamedTuple):
    """What is kept of N inputs; the last four as in `Features`."""

    statistics: Tensor  # (N, S), of the score; see `Score.statistics`
    components: Tensor  # (N, J) int64, the most probable component of each of the score's J mixtures
    prediction: Tensor  # (N,) int64, predicted classes
    inside: Tensor  # (N,) bool, whether all numbers are of a size that the score may be asked about
    keys: Tensor
    labels: Tensor | None
    precision: str
    format: InputFormat

    def shuffled(self) -> Tensor:
        """(N,) int64, the order of `Features.shuffled`."""
        return shuffle(salted(self.keys))

    @staticmethod
    def cat(parts: Sequence["Reduced"]) -> "Reduced":
        """Several batches, one after another."""
        return Reduced._make(map(joined, zip(*parts, strict=True)))

    def gathered(self) -> "Reduced":
        """Those of all processes, one after another."""
        extremes = self.format.extremes
        facts = gather_objects((self.precision, *self.format[:2], extremes is not None))
        *words, known = zip(*facts, strict=True)
        precision, size, numbers = map(each_once, words)
        # Either all processes take part in the gathering of a tensor, or none.
        joint = InputFormat(size, numbers, extremes if all(known) else None)
        return self._replace(precision=precision, format=joint)._map(gather_rows)

    def rows(self, index: Tensor) -> "Reduced":
        """Some of the inputs."""
        return self._map(lambda value: value[index])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Reduced":
        return Reduced._make(mapped(change, value) for value in self)
