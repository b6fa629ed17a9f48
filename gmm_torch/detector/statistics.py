"""A few numbers of each input, however wide its features are: all that calibration and reports need."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from gmm_torch.distributed import gather_objects, gather_rows
from gmm_torch.features.features import each_once, joined, mapped
from gmm_torch.features.inputs import InputFormat
from gmm_torch.mixture.sampling import salted, shuffle


class Statistics(NamedTuple):
    """A score's statistics of N inputs, with the classifier's predictions.

    Attributes:
        values: (N, S), see `Score.statistics`.
        components: (N, J) int64, the most probable component of each of the score's J mixtures.
        prediction: (N,) int64, predicted classes.
        inside: (N,) bool, False where a number is too large, or none, to be scored.
        keys, labels, precision, format: see `Features`.
    """

    values: Tensor
    components: Tensor
    prediction: Tensor
    inside: Tensor
    keys: Tensor
    labels: Tensor | None
    precision: str
    format: InputFormat

    @property
    def wrong(self) -> Tensor | None:
        """(N,) bool, predictions that differ from their labels; None without labels."""
        return None if self.labels is None else self.labels != self.prediction

    def shuffled(self) -> Tensor:
        """(N,) int64, the order of `Features.shuffled`."""
        return shuffle(salted(self.keys))

    @staticmethod
    def cat(parts: Sequence["Statistics"]) -> "Statistics":
        """Several batches, one after another."""
        return Statistics._make(map(joined, zip(*parts, strict=True)))

    def gathered(self) -> "Statistics":
        """Those of all processes, one after another."""
        extremes = self.format.extremes
        facts = gather_objects((self.precision, *self.format[:2], extremes is not None))
        *words, known = zip(*facts, strict=True)
        precision, size, numbers = map(each_once, words)
        # Either all processes take part in the gathering of a tensor, or none.
        joint = InputFormat(size, numbers, extremes if all(known) else None)
        return self._replace(precision=precision, format=joint)._map(gather_rows)

    def rows(self, index: Tensor) -> "Statistics":
        """Some of the inputs."""
        return self._map(lambda value: value[index])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Statistics":
        return Statistics._make(mapped(change, value) for value in self)
