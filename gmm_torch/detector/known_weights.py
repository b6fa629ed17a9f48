"""Whether a classifier still has the weights that a detector was calibrated on."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from gmm_torch.detector.storage import fingerprint


class KnownWeights:
    """The weights that a classifier had when this was made, and nothing of their size.

    A look at them waits for no device unless a tensor was written to or replaced since the last one; then they are
    hashed. Who writes through `.data`, or through NumPy, is seen by an exact look alone. Weights in another type are
    not judged: rounding changes them, see `PrecisionWarning`.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self._hash, self._types = fingerprint(classifier)["weights"], _types(classifier)
        self._mark, self._same = _mark(classifier), True

    def are_of(self, classifier: nn.Module, *, exact: bool = False) -> bool:
        """Whether the classifier has them now."""
        mark = _mark(classifier)
        if exact or mark != self._mark:
            judged = _types(classifier) == self._types
            self._mark, self._same = mark, not judged or fingerprint(classifier)["weights"] == self._hash
        return self._same


def _tensors(classifier: nn.Module) -> Iterator[Tensor]:
    for module in classifier.modules():  # one walk: half the time of `parameters` and `buffers`
        for value in chain(module._parameters.values(), module._buffers.values()):
            if value is not None and value.is_floating_point():
                yield value


def _types(classifier: nn.Module) -> list[torch.dtype]:
    return [value.dtype for value in _tensors(classifier)]


def _mark(classifier: nn.Module) -> list[tuple[int, int, int]]:
    """Which tensors there are, in which memory, and how often each was written to.

    Torch counts that for all but tensors of inference. Those of other types, such as quantised ones, have no memory of
    their own.
    """
    return [
        (
            id(value),
            value.data_ptr() if type(value) in (Tensor, nn.Parameter) else 0,
            0 if value.is_inference() else value._version,
        )
        for value in _tensors(classifier)
    ]
