"""How a classifier is asked and understood where its batches or its outputs are of a kind of their own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gmm_torch.features.hooks import of_this_thread


@dataclass(frozen=True)
class Adapter:
    """From a batch to a classifier's inputs, and from its output to logits.

    Args:
        inputs: from a batch, as a loader gives it or a detector is asked about it, to what the classifier takes: a
            tensor (N, ...), a tuple of them, or a mapping, for keyword arguments. None takes x of x or (x, ...).
        logits: from what the classifier returns to logits (N, C). None takes a tensor, or what is called `logits`.
        labels: from a batch to labels (N,), integers. None takes the second of (x, label), or what is called `labels`.

    Examples:
        >>> adapter = Adapter(inputs=lambda batch: (batch["image"], batch["age"]), logits=lambda output: output[0])
        >>> adapter.inputs({"image": 1, "age": 2})
        (1, 2)
    """

    inputs: Callable[[Any], Any] | None = None
    logits: Callable[[Any], Tensor] | None = None
    labels: Callable[[Any], Tensor] | None = None


NONE = Adapter()


@contextmanager
def understood(classifier: nn.Module, adapter: Adapter) -> Iterator[None]:
    """`classifier`, which within the block gives what the adapter makes of its outputs."""
    if adapter.logits is None:
        yield
        return
    logits = adapter.logits
    handle = classifier.register_forward_hook(of_this_thread(lambda module, args, output: logits(output)))
    try:
        yield
    finally:
        handle.remove()
